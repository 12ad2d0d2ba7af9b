"""The test kit for users' flows; `megaphone.testing` re-exports it."""

"""The data plane. Folders are layers, see docs/ARCHITECTURE.md; nothing is re-exported here."""

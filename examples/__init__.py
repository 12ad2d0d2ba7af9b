"""Small flows in the users' API; each file says how to run it. Imports megaphone only."""

"""NEXMark: events, schemas and queries as values in the users' API."""

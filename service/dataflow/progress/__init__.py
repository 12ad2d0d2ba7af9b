"""Who may still send what, and where: pure mathematics on pointstamps. Imports nothing but itself."""

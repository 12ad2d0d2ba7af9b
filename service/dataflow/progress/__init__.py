"""Who may still send what, and where: pure mathematics; imports nothing but itself."""

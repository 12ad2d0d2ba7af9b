"""`megaphone bench nexmark`: queries of the suite beside an oracle, and beside other processors."""

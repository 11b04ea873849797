"""From somebody's files to a profile: what they are, and what is made of them."""

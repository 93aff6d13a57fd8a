"""Small tools for every room, which know nothing of peers, sessions or nodes."""

"""`stt demo`: a hub and its peers, or three hubs and theirs, at work before your eyes."""

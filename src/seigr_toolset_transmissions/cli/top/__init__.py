"""`stt top`: a running node, watched in the terminal."""

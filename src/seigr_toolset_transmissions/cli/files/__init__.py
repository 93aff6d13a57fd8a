"""`stt send` and `stt receive`: files that arrive whole, whatever happens on the way."""

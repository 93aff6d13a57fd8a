"""The `stt` command. `main.run` is its entry point; it uses the library's public names only."""

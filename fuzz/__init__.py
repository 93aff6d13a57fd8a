"""Fuzzing: arbitrary input from strangers, peers and users, fed to the code that reads it.

* `targets` holds one function for each kind of input. It takes `bytes` and returns nothing; an
  exception means a bug. `session_target` is the longest of them; `reader` turns the input into
  choices;
* `run` lets atheris search for inputs (``python -m fuzz.run TARGET``);
* ``corpus`` holds inputs worth keeping, which the tests replay.
"""

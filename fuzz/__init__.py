"""Fuzzing: what strangers, peers and users may write, read by the code that has to read it.

* `targets` holds one function for each kind of input: a `bytes` in, nothing out, an exception for a
  bug; `session_target` is the longest of them, `reader` cuts the input into what they need;
* `run` has atheris look for inputs (``python -m fuzz.run TARGET``);
* ``corpus`` holds inputs worth keeping, which the tests replay.
"""

"""Benchmarks: this library beside the ones people use instead, in one run on one machine.

``python -m benchmarks`` measures and reports; ``--help`` lists what can be chosen. Only ratios of
one run mean anything: each round runs every peer after the other, and medians are compared.

* `peers` holds one file for each library, all with the same small interface (`peers.base`);
* `roles` runs one side of a measurement in a process of its own (`processes`);
* `measures` holds one file for each kind of measurement;
* `goals` says what this library has to reach, `report` and `plots` show whether it does.

`peers.stt` and the loops in `roles` use the public interface and the standard library; a crowd's
many identities are the one exception, and say so.
"""

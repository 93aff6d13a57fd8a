"""Benchmarks: this library next to the ones people use instead, in one run on one machine.

``python -m benchmarks`` measures and reports; ``--help`` lists the options. Only ratios within one
run mean anything: each round runs the peers one after the other, and medians are compared.

* `peers` holds one file for each library, all with the same small interface (`peers.base`);
* `roles` runs one side of a measurement in a process of its own (`processes`);
* `measures` holds one file for each kind of measurement;
* `goals` says what this library is meant to reach; `report` and `plots` show whether it does.

`peers.stt` and the loops in `roles` use the public interface and the standard library. The one
exception is the many identities of a crowd, marked where it occurs.
"""

"""Beyond one process: hubs that are one, over Unix sockets or NATS.

`Cluster` makes a node one of several hubs. `link` and `hub` hold the links between them, `meeting`
where they find each other, `routes` which hub has which endpoint, `lanes` and `deliveries` the two
ends of what goes from a hub to an endpoint of another, `inquiries` what concerns several hubs,
`presence` who is where, and `messages` the form of all that.
"""

from .cluster import Cluster

__all__ = ["Cluster"]

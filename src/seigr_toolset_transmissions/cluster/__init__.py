"""Beyond one process: hubs that are one, over Unix sockets, TCP or NATS.

`Cluster` makes a node one of several hubs. `meeting` and `direct` say where they find each other,
`membership` how one joins the others, and `hub` and `link` hold the links between them. `routes`
knows which hub has which endpoint, and `presence` tells a program who comes and goes. `lanes` and
`deliveries` are the two ends of what goes from a hub to an endpoint of another, `landings` are
connections that reach another hub than the one with their session, `inquiries` concern several
hubs, and `messages` gives all that its form.
"""

from .cluster import Cluster

__all__ = ["Cluster"]

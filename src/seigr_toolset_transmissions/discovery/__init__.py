"""Nodes of one group that find each other on a local network, by multicast DNS.

A node that is announced says, to everybody on the network: here is something that speaks STT. It
says to members of its group alone, sealed with a key that only they can derive: I am this node, and
I listen there. A stranger sees random bytes, and learns neither which group nor which node it is,
nor the port; where the announcement comes from, every packet shows.

**An announcement** is an instance of the service ``_seigr-stt._tcp.local.`` (RFC 6763). Its name is
12 random bytes, in hex. They are also the nonce of what its TXT record holds: the node id, the port
and the addresses, sealed as `sealing` says, always of one size. So a copy under another name opens
for nobody, and a copy under the same name says what the original said. The SRV record says port 0,
and there are no address records: members do not need them, and others need not know.

**What a stranger can do**: repeat an announcement after its node has gone, here or on another
network. A member that believes it dials, and the handshake fails, since it expects the node's
identity; but who dials can be seen. A time in the announcement would bound this, and hide nodes
from members whose clocks are wrong, so there is none. Say goodbye in a node's name, as multicast
DNS protects nothing: members then forget it until it is next announced. Flood: each new name costs
a member one decryption for each shared seed, and nothing is kept of it here.

**When something changes** (the node's port or shared seed, or the addresses of the machine), the
old announcement is withdrawn and one with a new random name takes its place, so that nobody can
follow a node from network to network by its announcements. This is looked at every few seconds: no
system tells it in the same way as another.

A node that is killed says no goodbye, and stays listed for up to 20 minutes: zeroconf, which is the
package for multicast DNS, keeps no record for a shorter time. Do not take a member that was found
for one that is there; dial it.

It needs the package zeroconf (the extra ``discovery``), and imports it only when you make an
`Announcement` or a `Discovery`.
"""

from .announcement import Announcement
from .finding import Discovery
from .sealing import Member

__all__ = ["Announcement", "Discovery", "Member"]

"""Which parameter gets which rule, and why.

A framework's tracer (`torch`, `jax`, `keras`, `tensorflow`) watches one pass of data through a model
and writes down facts; the policy reads a role, a view as matrices and a reason from them; a
`Partition` holds the result, prints it, saves it and compares it with another. Only the tracers know
a framework, and none is imported here.
"""

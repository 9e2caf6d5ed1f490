"""C++ that adapters have compiled for this CPU, where a compiler is at hand.

`build` compiles and keeps. `tape` writes down Muon's iterations as a list of products, which the C++ takes
one after the other. No framework is needed, but for `jax`, by which JAX and Keras on JAX call it.
"""

"""C++ that adapters have compiled for this CPU, where a compiler is at hand; no framework is needed here.

`build` compiles and keeps. `tape` writes down Muon's iterations as a list of products, which the C++ takes
one after the other.
"""

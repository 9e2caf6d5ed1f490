"""Steps compiled for this CPU, where a C++ compiler is at hand.

What a rule does is written in Python once. It is run with names for its arrays, which write down what is
done with them: an element-wise rule becomes lines of C++ (`expression`, `elementwise`), Muon's iterations a
list of products (`downslope.native.tape`, `polar`, `steps`). `finite` looks for NaN, `build` compiles with
torch's threads, `memory` finds the numbers of tensors.
"""

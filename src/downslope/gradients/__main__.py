"""Print the folder of `downslope.h`: `c++ -I "$(python -m downslope.gradients)" …`."""

from downslope.gradients.foreign import include

print(include())

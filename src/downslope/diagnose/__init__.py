"""What a training is doing: where its time goes, which learning rate it wants, what goes wrong in it.

`profile` holds what was measured of a step, `rates` a search for a learning rate, `health` the watch
over a run; none of them knows a framework. What does is in `torch/`. `downslope profile` and
`downslope lr` are in `profile_command` and `rates_command`.
"""

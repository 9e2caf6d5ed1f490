"""Policy gradients as a task: the optimizer that soonest teaches a policy to balance a pole.

    pip install 'downslope[torch,compare,control]'
    downslope compare examples/policy.py --trials 4 --seeds 5

REINFORCE (Williams, Machine Learning 8 (1992) 229-256) on Gymnasium's CartPole: the loss is minus the
log-probabilities of what was done, each times the rewards that followed, less their mean. A batch is no
data but the seed of its episodes: the policy that is trained plays them. So equal seeds give equal runs,
and what was stopped goes on as if it had not been.
"""

import gymnasium
import torch
from torch import nn

from downslope.tasks import Task

EPISODES, HELD_OUT, LONGEST = 4, 10, 200


def build(seed):
    """Return a new policy: from what is seen of cart and pole to the logits of left and right."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


def batches(seed):
    """Yield (what a policy sees, for the optimizer that traces it; the seed of the episodes)."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.zeros(1, 4), int(torch.randint(2**31 - EPISODES, (), generator=generator))


def play(policy, seed):
    """Return the log-probabilities of what was done in an episode, and its rewards."""
    world = gymnasium.make("CartPole-v1", max_episode_steps=LONGEST)
    dice = torch.Generator().manual_seed(seed)
    seen, _ = world.reset(seed=seed)
    done, said, rewards = False, [], []
    while not done:
        odds = policy(torch.from_numpy(seen)[None])[0].log_softmax(0)
        action = int(torch.multinomial(odds.detach().exp(), 1, generator=dice))
        seen, reward, fell, late, _ = world.step(action)
        said.append(odds[action])
        rewards.append(float(reward))
        done = fell or late
    world.close()
    return torch.stack(said), torch.tensor(rewards)


def loss(policy, batch):
    """Return the scalar whose gradient is minus that of the expected rewards, but for chance."""
    _, seed = batch
    played = [play(policy, seed + i) for i in range(EPISODES)]
    said = torch.cat([odds for odds, _ in played])
    follow = torch.cat([rewards.flip(0).cumsum(0).flip(0) for _, rewards in played])
    return -(said * (follow - follow.mean())).mean()


def evaluate(policy):
    """Return minus the mean length of episodes that are the same for all policies: lower is better."""
    return -sum(len(play(policy, 10**6 + i)[1]) for i in range(HELD_OUT)) / HELD_OUT


pole = Task(
    "pole",
    build,
    batches,
    loss,
    evaluate,
    steps=100,
    metric="minus the steps held",
    description="a policy of 4.6 thousand parameters learns by REINFORCE to balance a pole",
    learning_rates={"sgd": (1e-3, 1.0)},
)

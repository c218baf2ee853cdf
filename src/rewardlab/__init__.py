"""rewardlab: reward signals you can trust, and training on them."""

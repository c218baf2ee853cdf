"""`python -m rewardlab`."""

from rewardlab.cli.main import main

main()

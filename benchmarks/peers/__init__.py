"""The rivals, in a room of their own: none of them is a dependency of the project.

- `loops`: what runs in this environment, one group at a time: scikit-learn, SciPy, NumPy;
- `environments`: virtual environments, with pinned versions, for those that are not installed;
- `worker`: runs one of `scripts/` in such an environment, and is asked again and again, so that
  rivals take turns on one machine in one run.
"""

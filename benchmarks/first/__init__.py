"""Whole processes, as users start them, that `speed_first` times from outside.

- `answer`: a script with this library: fit, 16 groups by three methods, a table; then 23 groups;
- `refits`: the same question asked of scikit-learn, which fits 64 times;
- `command`: a command line of `leaveout`.
"""

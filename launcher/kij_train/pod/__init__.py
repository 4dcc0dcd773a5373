"""What runs in the pods, and in the local nodes: standard library (and torch), Python 3.8.

It imports nothing of ours but itself. The rest of kij-train takes from it the names and formats
that both ends share.
"""

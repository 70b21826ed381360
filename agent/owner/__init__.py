"""What the cluster's owner may say to the agent with kubectl alone, and what they see of it: limits, suspensions,
pauses, the status of AppliedBundles, Events."""

"""What runs in each cluster: takes the cluster's slice, applies it, undoes drift, tells the hub."""

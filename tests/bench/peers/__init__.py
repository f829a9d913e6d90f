"""Other gateways, each as its own documentation sets it up, to be measured in the same run as ours."""

"""Object detection and instance segmentation with Attentive Normalization, built of torchvision's parts."""

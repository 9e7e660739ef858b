"""Where images come from: Fashion-MNIST, folders of images, .npz files, a Python factory."""

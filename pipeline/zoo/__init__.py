"""Small reference networks for the demo, the tests and the benchmarks."""

from pipeline.zoo.mobilenet import MobileNetV2, mobilenet_v2
from pipeline.zoo.resnet import BasicBlock, ResNet, resnet
from pipeline.zoo.vgg import VGG, vgg

__all__ = ["VGG", "BasicBlock", "MobileNetV2", "ResNet", "mobilenet_v2", "resnet", "vgg"]

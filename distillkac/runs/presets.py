"""Ready-made settings for well-known data sets."""

from distillkac.data import fashion_mnist
from distillkac.data.config import DataConfig
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs.config import RunConfig
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.process_config import ProcessConfig

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# shape and class_names are for --dry-run before the images are there; those of the data replace them.
PRESETS = {
    "digits": RunConfig(),
    # The digits of make demo: as good in half the steps.
    "demo": RunConfig(
        optim=OptimConfig(optimizer="muon", lr_end=0.0, warmup=50, ema=0.997, beta2=0.99),
        steps=1500,
    ),
    "patches": RunConfig(
        data=DataConfig(builtin="patches", flip=True),
        network=NetworkConfig(channels=(48, 96), patch=2),
        optim=OptimConfig(batch_size=64, optimizer="muon", lr_end=0.0, beta2=0.99),
        steps=3000,
    ),
    # Shoes and bags of Fashion-MNIST all point one way: mirrored ones would be images that the data do not have.
    "fashion": RunConfig(
        data=DataConfig(path=str(fashion_mnist.DEBIAN)),
        network=NetworkConfig(channels=(48, 96), patch=2),
        optim=OptimConfig(optimizer="muon", lr_end=0.0, beta2=0.99, save_every=500),
        steps=6000,
        shape=(1, 28, 28),
        class_names=fashion_mnist.FASHION,
    ),
    # The network of the paper's CIFAR-10 runs, whose code is not public. Dropout 0 is what the independent reproduction has
    # for it (github.com/DanielZastrau/NeuralNetworks, commit a253061, model_getter "han"), and residual blocks that halve and
    # double the resolution, where this U-Net has convolutions. The paper's text does not name learning rate and number of
    # steps: these, batch and average are those of the Kac flow that it builds on (github.com/JChemseddine/telegraphers,
    # train_telegraphers.py), a smaller network with dropout .1. The warm-up, the fall of the rate to 1% and flip are
    # ours: that flow has none of them.
    "cifar10": RunConfig(
        data=DataConfig(path="cifar10", flip=True),
        noise=ProcessConfig("telegraph", 25.0, 2.0),
        network=NetworkConfig(
            channels=(256, 512, 512, 768), layers=3, attention=(1, 2, 3), head_dim=64, scale_shift=True
        ),
        optim=OptimConfig(batch_size=128, lr=2e-4, warmup=5000, ema=0.9999, weight_decay=0.0, save_every=5000),
        steps=400_000,
        shape=(3, 32, 32),
        class_names=CIFAR10_CLASSES,
    ),
    # As of cifar10, but that no source names its dropout: .1 is ours, as that of the flow that the paper builds on.
    "celeba64": RunConfig(
        data=DataConfig(path="celeba", image_size=64, flip=True),
        noise=ProcessConfig("telegraph", 25.0, 2.0),
        network=NetworkConfig(
            channels=(128, 256, 384, 512), layers=3, attention=(2, 3), head_dim=64, scale_shift=True, dropout=0.1
        ),
        optim=OptimConfig(batch_size=128, lr=2e-4, warmup=5000, ema=0.9999, weight_decay=0.0, save_every=5000),
        steps=400_000,
        label_drop=0.0,
        shape=(3, 64, 64),
        class_names=("all",),
    ),
    # Latents 4 x 32 x 32 of 256 x 256 images, made by distillkac.encode: docs/latents.md.
    "lsun256": RunConfig(
        data=DataConfig(path="lsun256-latents"),
        noise=ProcessConfig("telegraph", 25.0, 2.0),
        network=NetworkConfig(
            channels=(256, 512, 512, 768), layers=2, attention=(1, 2, 3), head_dim=64, scale_shift=True
        ),
        optim=OptimConfig(batch_size=128, lr=1e-4, warmup=5000, ema=0.9999, weight_decay=0.0, save_every=5000),
        steps=500_000,
        label_drop=0.0,
        shape=(4, 32, 32),
        class_names=("all",),
    ),
}

"""The peer of `benchmarks.notes`, run by another Python: the notes' VGG16 and ResNet50 in Keras 3 on TensorFlow.

PYTHON keras_notes.py NETWORK BATCH IMAGES POLICY     # prints images a second of one epoch of model.fit
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, regularizers

CLASSES = 100
L2 = 1e-4


def vgg16() -> keras.Model:
    """Five blocks, two dense layers of 4096, and the classes."""
    x = inputs = keras.Input((32, 32, 3))
    for block, (filters, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(2, 2, name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(4096, activation="relu", name="fc1")(x)
    x = layers.Dense(4096, activation="relu", name="fc2")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", dtype="float32", name="predictions")(x))


def _conv(x: object, filters: int, kernel: int, name: str, stride: int = 1, padding: str = "same") -> object:
    return layers.Conv2D(
        filters, kernel, stride, padding, use_bias=False, kernel_initializer="he_normal",
        kernel_regularizer=regularizers.L2(L2), name=name,
    )(x)  # fmt: skip


def _norm(x: object, name: str) -> object:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def resnet50() -> keras.Model:
    """Bottlenecks of 3, 4, 6, 3; stride in the 3×3; a penalty on kernels."""
    inputs = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(3, name="conv1_pad")(inputs)
    x = _norm(_conv(x, 64, 7, "conv1", 2, "valid"), "bn_conv1")
    x = layers.MaxPooling2D(3, 2, "same")(layers.ReLU()(x))
    for stage, (filters, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=2):
        for block in "abcdef"[:count]:
            name = f"{stage}{block}_branch"
            stride = 2 if block == "a" and stage > 2 else 1
            y = layers.ReLU()(_norm(_conv(x, filters, 1, f"res{name}2a"), f"bn{name}2a"))
            y = layers.ReLU()(_norm(_conv(y, filters, 3, f"res{name}2b", stride), f"bn{name}2b"))
            y = _norm(_conv(y, 4 * filters, 1, f"res{name}2c"), f"bn{name}2c")
            if block == "a":
                x = _norm(_conv(x, 4 * filters, 1, f"res{name}1", stride), f"bn{name}1")
            x = layers.ReLU()(layers.Add()([y, x]))
    x = layers.GlobalAveragePooling2D()(x)
    penalty = regularizers.L2(L2)
    outputs = layers.Dense(
        CLASSES, activation="softmax", dtype="float32", kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        kernel_regularizer=penalty, bias_regularizer=penalty, name="fc1000",
    )(x)  # fmt: skip
    return keras.Model(inputs, outputs)


def main(network: str, batch: str, images: str, policy: str) -> None:
    """Print images a second."""
    keras.mixed_precision.set_global_policy(policy)
    model = {"vgg16": vgg16, "resnet50": resnet50}[network]()
    optimizer = keras.optimizers.Adam(1e-4, epsilon=1e-7)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    count, size = int(images), int(batch)
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8).astype(np.float32) / 255
    y = np.arange(count) % CLASSES
    model.fit(x[: 4 * size], y[: 4 * size], batch_size=size, epochs=1, verbose=0)
    began = time.perf_counter()
    model.fit(x, y, batch_size=size, epochs=1, verbose=0)
    print(json.dumps(count / (time.perf_counter() - began)))


if __name__ == "__main__":
    main(*sys.argv[1:])

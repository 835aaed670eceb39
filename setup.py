"""Packaging: the folders at the root install as the one package `vertebra`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXPORT = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"]
ADAPTERS = {"smp": ["segmentation-models-pytorch>=0.6"], "mmengine": ["mmengine>=0.10.7"]}
FOLDERS = ["backbones*", "heads*", "tools*"]

setup(
    name="vertebra",
    version=re.search(r'__version__ = "(.+)"', (HERE / "__init__.py").read_text()).group(1),
    description="Detection and segmentation backbones for PyTorch, with heads and COCO training tools",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"vertebra": "."},
    packages=["vertebra", *(f"vertebra.{name}" for name in find_packages(include=FOLDERS))],
    package_data={
        "vertebra": [
            "py.typed",
            "configs/*/*.yaml",
            "tools/facts.json",
            "tools/*.html",
            "tools/report/*.html",
            "tools/report/*.js",
            "tools/report/*.css",
        ]
    },
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "timm>=1.0",
        "pycocotools>=2.0.8",
        "faster-coco-eval>=1.8",
        "albumentations>=2.0.8",
        "opencv-python>=4.11",
        "omegaconf>=2.4",
        "typer>=0.15",
        "rich>=13",
        "tensorboard>=2.15",
        "matplotlib>=3.8",
        "plotly>=6",
        "safetensors>=0.4",
        "numpy>=1.26",
        "Jinja2>=3.1",
        "filelock>=3.12",
        "tifffile>=2024.1",
    ],
    extras_require={
        # Each for one module of backbones/adapters. detectron2 and mmdetection are not on the index as wheels.
        **ADAPTERS,
        # For `vertebra export --format onnx`, and to run what it writes.
        "export": EXPORT,
        "dev": [
            *(package for packages in ADAPTERS.values() for package in packages),
            *EXPORT,
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "pre-commit>=4",
            "setuptools>=77",
            "torchmetrics>=1.6",
            "tidecv>=1.0.1",
        ],
    },
    script_name="setup.py",  # so that this file is left out of the package, however the build is started
    entry_points={"console_scripts": ["vertebra = vertebra.tools.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)

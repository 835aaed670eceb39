"""Backbones in other people's pipelines: a module for each framework, which imports it, and only there.

Importing a module enters every name of the registry, with those that come later, into the framework's own registry,
where it has one. What a framework calls differently (lists or dicts, names of levels, counts of frozen stages, units of
mean and std) is all that its module is about.
"""

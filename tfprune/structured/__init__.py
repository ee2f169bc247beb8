"""Structured pruning: channels really removed, so that what is left is an ordinary, smaller Keras model."""

import tfprune.backend  # noqa: F401  (before the modules that import Keras)
from tfprune.channels.groups import ChannelGroup, channel_groups
from tfprune.channels.labels import Channels
from tfprune.channels.shrink import DeadChannels, dead_channels, shrink
from tfprune.channels.trace import Call, TracesChannels
from tfprune.structured.plan import Plan, PlannedGroup, plan

__all__ = [
    "Call",
    "ChannelGroup",
    "Channels",
    "DeadChannels",
    "Plan",
    "PlannedGroup",
    "TracesChannels",
    "channel_groups",
    "dead_channels",
    "plan",
    "shrink",
]

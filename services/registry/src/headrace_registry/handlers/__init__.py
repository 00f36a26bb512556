# SPDX-License-Identifier: Apache-2.0
"""One function for each command, query and event of the registry.

All effects of one command or event are one transaction of the store; a repeat of either changes
nothing: a command is known by its request id, an event by its ce_id and, beneath, by what it names.
"""

# SPDX-License-Identifier: Apache-2.0
"""Questions: each is answered from one look at the store."""

from __future__ import annotations

from headrace.errors import NotFound
from headrace.model_reference import parse_reference
from headrace_registry.domain.alias import Alias, MovePage
from headrace_registry.domain.change import ChangePage
from headrace_registry.domain.definition import Definition, model_names, order_of
from headrace_registry.domain.name import check_alias, check_name
from headrace_registry.domain.page import (
    ListAliasMoves,
    ListByName,
    ListChanges,
    ListVersions,
    Model,
    ModelPage,
    VersionPage,
    below_of,
    cut,
    page_limit,
    page_of,
)
from headrace_registry.domain.rollout import Rollout
from headrace_registry.domain.version import ModelVersion
from headrace_registry.ports import RegistryReader, RegistryStore


def list_definitions(
    query: ListByName, *, store: RegistryStore
) -> tuple[tuple[Definition, ...], str]:
    """One page in the order of KINDS, and the token of the next."""
    with store.reading() as reader:
        return query.cut(reader.definitions(), _place)


def list_retracted(
    query: ListByName, *, store: RegistryStore
) -> tuple[tuple[Definition, ...], str]:
    """The same of those that were taken back, as they were last."""
    with store.reading() as reader:
        return query.cut([each for each in reader.ever_applied() if each.retracted], _place)


def _place(definition: Definition) -> str:
    return "{}/{}".format(*order_of(definition))


def list_models(query: ListByName, *, store: RegistryStore) -> ModelPage:
    """Every model that is declared, trained by a recipe or has a version."""
    with store.reading() as reader:
        newest = reader.newest_versions()
        page, token = query.cut(model_names(reader.definitions()) | newest.keys(), str)
        models = tuple(
            Model(name, newest.get(name, 0), tuple(reader.aliases(name).values())) for name in page
        )
    return ModelPage(models, token)


def list_versions(query: ListVersions, *, store: RegistryStore) -> VersionPage:
    """Raises NotFound MODEL_UNKNOWN when nothing declares the model and it has no version."""
    check_name("model", query.model)
    limit, below = query.limit, query.below
    with store.reading() as reader:
        found = reader.versions(query.model, below=below, limit=limit + 1)
        if not found and below is None:
            _check_model(reader, query.model)
    return page_of(query, found)


def resolve_model(reference: str, *, store: RegistryStore) -> tuple[ModelVersion, Alias | None]:
    """The version that the reference names now, and the alias by which it was named.

    Raises Invalid BAD_NAME, NotFound VERSION_UNKNOWN or ALIAS_UNKNOWN.
    """
    asked = parse_reference(reference)
    if asked.alias:
        check_alias(asked.alias)
    with store.reading() as reader:
        if not asked.alias:
            return reader.version(asked.model, asked.version), None
        alias = reader.aliases(asked.model).get(asked.alias)
        if alias is None:
            raise NotFound("ALIAS_UNKNOWN", model=asked.model, alias=asked.alias)
        return reader.version(asked.model, alias.version), alias


def list_aliases(
    model: str, query: ListByName, *, store: RegistryStore
) -> tuple[tuple[Alias, ...], str]:
    """One page and the token of the next; raises NotFound MODEL_UNKNOWN as list_versions does."""
    check_name("model", model)
    with store.reading() as reader:
        found = reader.aliases(model)
        if not found:
            _check_model(reader, model)
    return query.cut(found.values(), lambda each: each.alias)


def list_alias_moves(query: ListAliasMoves, *, store: RegistryStore) -> MovePage:
    """Every generation of an alias, newest first; NotFound MODEL_UNKNOWN, or ALIAS_UNKNOWN for one
    that never was.
    """
    check_name("model", query.model)
    check_name("alias", query.alias)
    limit, below = page_limit(query.page_size), below_of(query.page_token, query.of_list)
    with store.reading() as reader:
        found = reader.alias_moves(query.model, query.alias, below=below, limit=limit + 1)
        if not (found or query.page_token):
            _check_model(reader, query.model)
            raise NotFound("ALIAS_UNKNOWN", model=query.model, alias=query.alias)
    return MovePage(*cut(found, limit, query.of_list, lambda each: each.generation))


def list_changes(query: ListChanges, *, store: RegistryStore) -> ChangePage:
    """Who changed what, when and why, newest first; NotFound MODEL_UNKNOWN for a model that is not
    there and of which nothing was changed.
    """
    if query.model:
        check_name("model", query.model)
    limit, below = page_limit(query.page_size), below_of(query.page_token, query.of_list)
    with store.reading() as reader:
        found = reader.changes(query.model, below=below, limit=limit + 1)
        if query.model and not found:
            _check_model(reader, query.model)
    return ChangePage(*cut(found, limit, query.of_list, lambda each: each.number))


def list_rollouts(query: ListByName, *, store: RegistryStore) -> tuple[tuple[Rollout, ...], str]:
    """One page and the token of the next."""
    with store.reading() as reader:
        return query.cut(reader.rollouts().values(), lambda each: each.endpoint)


def _check_model(reader: RegistryReader, model: str) -> None:
    if model not in model_names(reader.definitions()):
        raise NotFound("MODEL_UNKNOWN", model=model)

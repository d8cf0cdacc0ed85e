"""The schemas of the head's state: a model card as the API shows it."""

from omni_worker.api.state.schemas import CardObject, DefaultsObject, card_object
from omni_worker.model_card import ModelCard, ServingDefaults

CARD = ModelCard(pipeline="P", mode="step", steps=4, image="one", mask=True, defaults=ServingDefaults(width=64))


def test_the_schema_of_a_card_has_the_cards_fields_but_those_that_are_shown_elsewhere_or_nowhere():
    assert list(DefaultsObject.model_fields) == list(ServingDefaults.__struct_fields__)
    elsewhere, nowhere = {"pipeline", "mode"}, {"fps", "frame_multiple"}
    fields = [field for field in ModelCard.__struct_fields__ if field not in elsewhere | nowhere]
    assert list(CardObject.model_fields) == fields


def test_a_card_is_shown_with_its_values_and_the_defaults_of_the_others():
    shown = card_object(CARD)
    assert (shown.steps, shown.image, shown.mask, shown.video) == (4, "one", True, False)
    assert shown.defaults == DefaultsObject(width=64)
    assert CardObject() == card_object(ModelCard(pipeline="", mode=""))

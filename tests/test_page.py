"""The page runs the same model as memt: in a JavaScript engine, against memt itself."""

import base64
import json
import math
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from py_mini_racer import MiniRacer

import memt
import train_toy
from experiments import page

from .support import T, configs, name, random_params

COMMITTED = (Path(__file__).parent.parent / "figures" / "memory.html").read_text(encoding="utf-8")
MODELS = json.loads(re.search(r'id="models">(.*?)</script>', COMMITTED, re.DOTALL)[1])
VARIANTS = [model["config"]["variant"] for model in MODELS]


@pytest.fixture(scope="module")
def js():
    """run(code, name=value, …) evaluates JavaScript beside the scripts of the committed page."""
    engine = MiniRacer()
    for script in re.findall(r"<script>(.*?)</script>", COMMITTED, re.DOTALL):
        engine.eval(script)

    def run(code, **values):
        given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        return json.loads(engine.eval(f"{{ {given} JSON.stringify({code}); }}"))

    return run


def unpack(text, bits, count):
    binary = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[: bits * count]
    return binary.reshape(count, bits) @ 2 ** np.arange(bits)[::-1] - 2 ** (bits - 1)


def decode(model, state=-1):
    """-> settings, parameters (float64) of what a page stores."""
    stored, params = model["states"][state], {}
    columns = zip(stored["bits"], stored["scales"], stored["weights"], strict=True)
    for (param, shape), (bits, scales, weights) in zip(model["shapes"], columns, strict=True):
        width = shape[1] if shape[1:] else 1
        integers = unpack(weights, bits, math.prod(shape)).reshape(-1, width)
        params[param] = (integers * (unpack(scales, 12, width) * stored["unit"])).reshape(shape)
    about = {"task": model["task"], "length": model["length"]}
    return train_toy.Settings(**about, config=memt.Config(**model["config"])), params


def js_answers(js, model, size):
    """As page.answers, by the page."""
    s, _ = decode(model)
    code = """(() => {
      const params = decode(model.shapes, model.states.at(-1)), M = model.config.memory;
      const gone = (i, count) => Array.from({ length: count }, (_, k) => (i + k) % M);
      return [0, 1, 3].filter((count) => !count || count < M).map((count) => tokens.map((x, i) =>
        respond(params, x, model.config, gone(i, count)).outputs));
    })()"""
    tokens = train_toy.make_batch(s, size, train_toy.TEST).tokens[:, : s.length]
    return js(code, model=model, tokens=tokens.tolist())


# ---------------------------------------------------------------- any model
@pytest.mark.parametrize("config", configs(layers=(1, 2)), ids=name)
def test_logits_and_maps_are_those_of_memt(config, js):
    """On the same rounded weights; blanks may be anywhere; whole, and without tokens 1 and 3."""
    rng = np.random.default_rng(70)
    config = replace(config, outputs=7) if config.layers == 2 else config
    params = random_params(config, rng)
    params["out_w"][:, 0] = 0  # no scale to divide by
    stored, rounded = page.encode(params, int(rng.integers(8, 25)))
    shapes = [*memt.param_shapes(config).items()]
    model = {"config": asdict(config), "shapes": shapes, "states": [stored]}
    _, params = decode(model | {"task": "copy", "length": 1})
    assert all(np.allclose(params[n], rounded[n], rtol=1e-6) for n in params)
    tokens, M = rng.integers(config.symbols + 1, size=T), config.memory
    for gone in [[], [1, 3]] if M else [[]]:
        code = """(() => {
          const { logits, maps } = model_forward(decode(model.shapes, model.states[0]), tokens,
            model.config, gone);
          const plain = maps.map((layer) => layer.map((map) => map.map((row) => [...row])));
          return [logits.map((row) => [...row]), plain];
        })()"""
        logits, maps = map(np.array, js(code, model=model, tokens=tokens.tolist(), gone=gone))
        lesioned = train_toy.without(params, config, gone) if gone else (params, config)
        right, cache = memt.model_forward(lesioned[0], tokens[None], lesioned[1])
        np.testing.assert_allclose(logits, right[0], rtol=0, atol=1e-10)
        stay = np.delete(np.arange(M + T), gone)
        expected = np.zeros(maps.shape)
        expected[:, :, stay[:, None], stay] = memt.attention_maps(cache)[:, 0]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-12)


def test_the_answer_is_known_only_of_tasks_that_move_symbols(monkeypatch):
    s, roll = train_toy.Settings(length=4), [1, 2, 3, 0]
    tasks = {"reverse": lambda x: x[:, ::-1], "roll": lambda x: x[:, roll]}
    tasks |= {"sort": lambda x: np.sort(x), "first": lambda x: x[:, [0, 0, 0, 0]]}
    tasks |= {"next": lambda x: (x + 1) % 10}
    monkeypatch.setattr(train_toy, "TASKS", tasks)
    found = {task: page.answer_order(replace(s, task=task)) for task in tasks}
    right = {"reverse": [3, 2, 1, 0], "roll": roll, "sort": None, "first": [0] * 4, "next": None}
    assert found == right


REFUSED = {
    ("", 10): "Type 3 symbols, each from 0 to 9.",
    ("12", 10): "1 more to type.",
    ("1 2 3 4", 10): "1 too many: it takes 3 symbols.",
    ("12x", 10): "“x” is not a symbol of this model: it knows 0 to 9.",
    ("1-2", 10): "“-” is not a symbol of this model: it knows 0 to 9.",
    ("١٢٣", 10): "“١” is not a symbol of this model: it knows 0 to 9.",
    ("5", 5): "“5” is not a symbol of this model: it knows 0 to 4.",
    ("123", 12): "“123” is not a symbol of this model: it knows 0 to 11.",
    ("1 2 1.5", 12): "“1.5” is not a symbol of this model: it knows 0 to 11.",
}


def test_what_is_typed_is_read_or_refused_in_words(js):
    for (text, symbols), error in REFUSED.items():
        assert js("parse(text, 3, symbols)", text=text, symbols=symbols) == {"error": error}
    for text, symbols in (("314", 10), (" 3 1,4 ", 10), ("3 1 4", 12), ("3, 1,4 ", 12)):
        assert js("parse(text, 3, symbols)", text=text, symbols=symbols) == {"tokens": [3, 1, 4]}


def test_a_memory_token_of_two_symbols_is_said_to_hold_both(js):
    for weights, words in (
        ([0.1, 0.2, 0.7], "mostly symbol 3, the 8 (70%)"),
        ([0.5, 0.1, 0.4], "symbols 1 and 3, the 4 and the 8 (50% and 40%)"),
        ([0.3, 0.4, 0.3], "several symbols (none above 40%)"),
    ):
        assert js("noted(weights, [4, 6, 8])", weights=weights) == words


# ---------------------------------------------------------------- the committed page
def test_the_committed_page_is_whole_small_and_by_itself():
    assert page.html(MODELS) == COMMITTED, "stale: python -m experiments.page"
    for model in MODELS:
        about = {key: value for key, value in model.items() if key != "sum"}
        assert page.digest(about) == model["sum"], "damaged"
    assert len(COMMITTED.encode()) <= 1e6 and [*memt.VARIANTS] == VARIANTS
    assert [len(m["states"]) for m in MODELS] == [
        8 if v == "membottleneck" else 1 for v in VARIANTS
    ]
    links = set(re.findall(r"\w+://[^\s\"'<>]*", COMMITTED))
    assert links == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    assert not re.search(r"(?i)\bsrc=|@import|url\(|fetch\(|XMLHttp", COMMITTED)


@pytest.mark.parametrize("model", MODELS, ids=VARIANTS)
def test_every_answer_is_that_of_the_original_model(model, js):
    """`check` was made of the model before rounding: whole, without one token, without three."""
    assert page.digest(js_answers(js, model, page.CHECK_ON)) == model["states"][-1]["check"]


@pytest.mark.parametrize("model", MODELS, ids=VARIANTS)
def test_accuracies_and_lost_answers_are_as_stated(model):
    batch, few = (train_toy.make_batch(decode(model)[0], n, train_toy.TEST) for n in (1000, 500))
    for i, state in enumerate(model["states"]):
        s, params = decode(model, i)
        params = {n: np.float32(p) for n, p in params.items()}
        right = train_toy.evaluate(params, s.config, batch).symbol
        assert right == pytest.approx(state["right"], abs=2e-4)
        if s.config.memory and i in (3, len(model["states"]) - 1):
            wrong = (train_toy.evaluate(params, s.config, few).outputs != few.targets).mean(axis=0)
            lost = 100 * np.clip(train_toy.lesion_matrix(params, s.config, few) - wrong, 0, None)
            np.testing.assert_allclose(lost, state["lost"], atol=0.8)
    assert right == 1 and (i == 0 or model["states"][0]["right"] < 0.2)


# ---------------------------------------------------------------- the command
def command(monkeypatch, capsys, *arguments):
    """-> exit status, what was printed, what was said of errors."""
    monkeypatch.setattr(sys, "argv", ["page.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        page.main()
    return stopped.value.code, *capsys.readouterr()


def test_the_page_of_one_model(js, tmp_path, monkeypatch, capsys):
    s, params = decode(MODELS[VARIANTS.index("membottleneck")])
    original = {n: np.float32(p) for n, p in params.items()}
    original["memory"] = original["memory"][::-1]  # the page puts it in order
    train_toy.save_model(tmp_path / "model.npz", s, original)
    status, out, err = command(monkeypatch, capsys, tmp_path / "model.npz")
    text = (tmp_path / "memory.html").read_text(encoding="utf-8")
    (model,) = json.loads(re.search(r'id="models">(.*?)</script>', text, re.DOTALL)[1])
    assert (status, err) == (0, "") and "memory.html" in out and len(text.encode()) <= 150_000
    assert model["rows"] == [*range(10)][::-1] and model["write"] == 1
    sorted_again = original | {"memory": original["memory"][model["rows"]]}
    assert np.array_equal(js_answers(js, model, 40), page.answers(s, sorted_again, 40))


def test_bad_arguments_get_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "text").write_text("no model")
    s, params = decode(MODELS[0])
    memt.save(tmp_path / "bare.npz", {n: np.float32(p) for n, p in params.items()}, s.config)
    train_toy.save_model(tmp_path / "good.npz", s, {n: np.float32(p) for n, p in params.items()})
    for arguments, message in (
        (["nowhere.npz"], "'nowhere.npz' is not a file"),
        ([tmp_path / "text"], "text' is not a memt model"),
        ([tmp_path / "bare.npz"], "does not say its task and length"),
        ([tmp_path / "good.npz", "--out", tmp_path], "--out takes a file"),
        (["--frames", "3"], "--frames"),
    ):
        status, out, err = command(monkeypatch, capsys, *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare.npz", "good.npz", "text"]

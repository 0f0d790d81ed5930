"""DreamerV3's world model (Hafner et al. 2023), with stems for a CPU and two additions that make it heed actions."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from worldlab.dynamics.decoder import FrameDecoder
from worldlab.dynamics.encoder import FrameEncoder
from worldlab.dynamics.filtered import Filtered, mean_of, some_of, windows_of
from worldlab.dynamics.heads import TwoHot, layer, mlp, precision, symexp, symlog
from worldlab.dynamics.latents import divergence, sample
from worldlab.dynamics.layout import Layout
from worldlab.dynamics.privileged import PrivilegedHead
from worldlab.dynamics.proprioception import Proprioception
from worldlab.dynamics.recurrence import SIZES, Recurrence
from worldlab.dynamics.rssm_config import RSSMConfig
from worldlab.dynamics.slots import Slots
from worldlab.dynamics.unroll import unroll
from worldlab.errors import UsageError, unknown
from worldlab.normalize import Moments, Statistics
from worldlab.runs import Json, described
from worldlab.trajectory import Observation, Spec, Trajectory


class RSSM(nn.Module):
    """A recurrent state-space model of images and proprioception.

    A belief is one vector [h, z, s, w]: the GRU's state, the one-hot latents, with `carry_state` the proprioceptive
    state in the units of the data, and with `slots` where objects are (`Slots`). Everything is done to beliefs: `begin`
    and `update` see, `advance` imagines, `features` is what heads, actors and critics read.
    """

    def __init__(self, config: RSSMConfig, spec: Spec, statistics: Statistics) -> None:
        """`spec` and `statistics` are those of the data.

        Raises:
            UsageError: a camera does not exist, or what the belief should carry is not seen.
        """
        super().__init__()
        self.config, self._data_spec, self.statistics = config, spec, statistics
        self.spec = _spec_of(config, spec)
        if config.carry_state and config.sees == "images":
            raise UsageError("a model that sees images only has no proprioception to carry; use carry_state=False.")
        if config.slots and not (config.carry_state and config.privileged and config.sees == "both"):
            raise UsageError("slots need frames, a carried state and privileged labels; use slots=False.")
        size = self.size = SIZES[config.size]
        known = statistics.privileged or Moments((), (), (), ())
        self.carried = len(spec.state) if config.carry_state else 0
        self.body = Proprioception(spec, statistics, size.deter, size.units)
        self.eye = FrameEncoder(self.spec.cameras, size.channels)
        self.seen = layer(self.eye.width, size.units) if self.spec.cameras else None
        self.felt = layer(len(spec.state), size.units) if config.sees != "images" else None
        embedding = size.units * sum(part is not None for part in (self.seen, self.felt))
        inputs = self.body.inputs if config.carry_state else len(spec.action)
        self.core = Recurrence(inputs, embedding, size, correct=config.correct)
        latent = size.stoch * size.classes
        self.slots = Slots(self.spec, statistics, embedding, size.units) if config.slots else None
        of_slots, shown = (self.slots.width, self.slots.features) if self.slots else (0, 0)
        self.parts = [size.deter, latent, self.carried, of_slots]
        self.width = size.deter + latent + (self.body.width if config.carry_state else 0) + shown
        """Of `features`."""
        self.two_hot = TwoHot()
        self.reward_head = mlp(self.width, size.units, 1, len(self.two_hot.bins), silent=True)
        self.ending_head = mlp(self.width, size.units, 1, 2)
        self.state_head = mlp(self.width, size.units, 2, len(spec.state))
        names = () if config.slots else self.spec.privileged
        self.world_head = PrivilegedHead(names, known, self.width, size.units) if names else None
        self.decoder = FrameDecoder(self.width, self.spec.cameras)

    def describe(self) -> dict[str, Json]:
        """Everything that `load` needs except the weights."""
        return described(self.config.kind, model=self.config, spec=self._data_spec, statistics=self.statistics)

    # What beliefs are made of

    def encode(self, obs: Observation) -> Float[Tensor, "*b n"]:
        """What is seen of each row."""
        state = obs.state
        parts: list[Tensor] = []
        if self.seen is not None:
            flat = {name: obs.images[name].flatten(0, state.ndim - 2) for name in self.spec.cameras}
            parts.append(self.seen(self.eye(flat)).unflatten(0, state.shape[:-1]))
        if self.felt is not None:
            parts.append(self.felt(symlog(self.body.scale(state))))
        return torch.cat(parts, -1)

    def begin(self, obs: Observation, noise: Float[Tensor, "b z"] | None = None) -> Float[Tensor, "b d"]:
        """The belief after a first look, leading axes (b,); see `advance` for the noise."""
        start = obs.state.new_zeros(len(obs.state), sum(self.parts))
        pushed = self.core.push(start.new_zeros(len(start), self.core.inputs))
        return self._see(start, pushed, obs, noise, first=True)

    def update(
        self,
        belief: Float[Tensor, "b d"],
        action: Float[Tensor, "b a"],
        obs: Observation,
        noise: Float[Tensor, "b z"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """The belief after an action and a look at what came of it."""
        pushed = self.core.push(self._done(self.proprioception(belief), action, obs.state))
        return self._see(belief, pushed, obs, noise)

    def advance(
        self,
        belief: Float[Tensor, "b d"],
        action: Float[Tensor, "b a"],
        noise: Float[Tensor, "b z"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """The belief after an action whose consequence is imagined: the likeliest, or one drawn with `noise`.

        Differentiable, with straight-through gradients of the latents.
        """
        deter, stoch, state, slots = belief.split(self.parts, -1)
        after = self.body(state, action, deter) if self.config.carry_state else state
        deter = self.core.advance(deter, stoch, self.core.push(self._done(state, action, after)))
        if self.slots is not None:
            slots = self.slots.move(slots, state, after)
        return torch.cat([deter, sample(self.core.prior(deter), noise), after, slots], -1)

    def noise(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n z"]:
        """What `advance`, `update` and `begin` need to draw latents for n beliefs: uniform from 0 to 1."""
        where = self.two_hot.bins.device
        device = where if generator is None else generator.device
        return torch.rand(n, self.size.stoch, generator=generator, device=device).to(where)

    def features(self, belief: Float[Tensor, "*b d"]) -> Float[Tensor, "*b f"]:
        """What heads, actors and critics read."""
        if not self.config.carry_state:
            return belief
        deter, stoch, state, slots = belief.split(self.parts, -1)
        shown = [] if self.slots is None else [self.slots.show(state, slots)]
        return torch.cat([deter, stoch, self.body.posture(state), *shown], -1)

    def proprioception(self, belief: Float[Tensor, "*b d"]) -> Float[Tensor, "*b s"]:
        """The state that the belief carries, in the units of the data."""
        return belief.split(self.parts, -1)[2]

    def reward(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """What was received on arriving in a belief."""
        return self.two_hot.mean(self.reward_head(features))

    def endings(self, features: Float[Tensor, "*b f"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """Probabilities that the episode goes on from a belief, and that it has ended there in success."""
        ended, success = self.ending_head(features).float().sigmoid().unbind(-1)
        return 1 - ended, torch.minimum(ended, success)  # either alone is learnt, and who succeeds ends

    # A world model

    @torch.no_grad()
    def observe(self, context: Trajectory) -> Float[Tensor, "b d"]:
        """The belief after the last valid row, with the likeliest latents."""
        context = context.rows(0, int(context.length.max())).to(self.two_hot.bins.device)
        last = (context.length - 1).clamp(min=0)
        return self.filter(context).belief[torch.arange(len(last), device=last.device), last]

    @torch.no_grad()
    def imagine(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, Float[Tensor, "b d"]]:
        """What follows each action: drawn with the generator, or the likeliest if there is none."""
        beliefs = self._onward(belief, action.to(belief.device), generator)
        return self.show(beliefs, action.to(belief.device)), beliefs[:, -1]

    @torch.no_grad()
    def sketch(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b t a"], generator: torch.Generator | None = None
    ) -> tuple[Trajectory, Float[Tensor, "b d"]]:
        """`imagine` without images."""
        beliefs = self._onward(belief, action.to(belief.device), generator)
        return self.show(beliefs, action.to(belief.device), pictures=False), beliefs[:, -1]

    def _onward(
        self, belief: Float[Tensor, "b d"], action: Float[Tensor, "b t a"], generator: torch.Generator | None
    ) -> Float[Tensor, "b t d"]:
        """The beliefs after each action."""
        beliefs: list[Tensor] = []
        for now in action.unbind(1):
            noise = None if generator is None else self.noise(len(belief), generator)
            belief = self.advance(belief, now, noise)
            beliefs.append(belief)
        return torch.stack(beliefs, 1)

    @torch.no_grad()
    def show(
        self, belief: Float[Tensor, "b t d"], action: Float[Tensor, "b t a"], *, pictures: bool = True
    ) -> Trajectory:
        """What beliefs say of the world; row t is the consequence of action[t]."""
        features = self.features(belief)
        ended, success = self.ending_head(features).unbind(-1)
        return Trajectory(
            obs=Observation(
                self.decoder.draw(features) if pictures else {}, self._state(belief, features), ("",) * len(action)
            ),
            action=action,
            reward=self.reward(features),
            terminated=ended > 0,
            success=success > 0,
            valid=torch.ones_like(ended, dtype=torch.bool),
            privileged=self._privileged(belief, features),
        )

    def filter(self, batch: Trajectory, *, draw: bool = False) -> Filtered:
        """The beliefs after each row of windows, seen one after another; `draw` samples the latents."""
        n, t = batch.valid.shape
        state = batch.obs.state
        seen = self.encode(batch.obs)
        looks = self.core.look(seen)
        inputs = self._done(state[:, :-1], batch.action[:, :-1], state[:, 1:])
        pushed = self.core.push(torch.cat([inputs.new_zeros(n, 1, inputs.shape[-1]), inputs], 1))
        noise = self.noise(n * t).unflatten(0, (n, t)) if draw else None
        seen_so = unroll(self.core, pushed, looks, noise)
        parts = [seen_so.deter, seen_so.stoch, state[..., : self.carried]]
        sightings = None if self.slots is None else self.slots.follow(seen, state)
        if sightings is not None:
            parts.append(sightings.slots)
        prior = self.core.prior(seen_so.expected)
        return Filtered(torch.cat(parts, -1), prior, seen_so.posterior, pushed, sightings)

    def _see(
        self, belief: Tensor, pushed: Tensor, obs: Observation, noise: Tensor | None, *, first: bool = False
    ) -> Float[Tensor, "b d"]:
        """The next belief, or the first."""
        deter, stoch, state, slots = belief.split(self.parts, -1)
        seen = self.encode(obs)
        deter, posterior = self.core.see(self.core.advance(deter, stoch, pushed), self.core.look(seen))
        if self.slots is not None:
            predicted = None if first else self.slots.move(slots, state, obs.state)
            slots = self.slots.see(seen, predicted, self.slots.read(seen))[1]
        return torch.cat([deter, sample(posterior, noise), obs.state[..., : self.carried], slots], -1)

    def _done(self, state: Tensor, action: Tensor, after: Tensor) -> Float[Tensor, "*b u"]:
        """What the recurrence is told of a step."""
        return self.body.motion(state, action, after) if self.config.carry_state else self.body.scale_action(action)

    def _privileged(self, belief: Float[Tensor, "*b d"], features: Float[Tensor, "*b f"]) -> Tensor | None:
        """What only a simulator knows."""
        if self.slots is not None:
            return self.slots.privileged(*belief.split(self.parts, -1)[2:])
        return None if self.world_head is None else self.world_head(features)

    def _state(self, belief: Float[Tensor, "*b d"], features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b s"]:
        """Proprioception."""
        if self.config.carry_state:
            return self.proprioception(belief)
        return self.body.scale.invert(symexp(self.state_head(features).float()))

    # Training

    @property
    def compiles(self) -> list[tuple[nn.Module, str]]:
        """A step of the recurrence there and one back; all else too, but for dreams, which take many minutes."""
        parts: list[tuple[nn.Module, str]] = [(self.core, "step"), (self.core, "retreat"), (self, "losses")]
        return parts[:2] if self.config.overshooting else parts

    def loss(self, batch: Trajectory) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The sum of `losses`.

        Raises:
            UsageError: the windows are too short.
        """
        losses, _ = self.losses(batch)
        return torch.stack(list(losses.values())).sum(), losses

    def losses(self, batch: Trajectory) -> tuple[dict[str, Float[Tensor, ""]], Filtered]:
        """Every term of the loss, nats a row, and the beliefs from which an actor may imagine.

        Raises:
            UsageError: the windows are too short to hold a step, or a dream.
        """
        config, rows = self.config, batch.valid.shape[1]
        if rows < (needed := max(2, config.overshooting + 1)):
            raise UsageError(f"this world model learns from windows of {needed} rows; got {rows}.")
        filtered = self.filter(batch, draw=True)
        losses = self._divergences(filtered, batch.valid) | self._errors(filtered.belief, batch, 0)
        horizon, dreamt = config.overshooting or 1, None
        state, action, valid = (windows_of(x, horizon) for x in (batch.obs.state, batch.action, batch.valid))
        if config.overshooting:
            window = Trajectory(
                obs=Observation({}, state, ()),
                action=action,
                reward=windows_of(batch.reward, horizon),
                terminated=windows_of(batch.terminated, horizon),
                success=windows_of(batch.success, horizon),
                valid=valid,
                privileged=None if batch.privileged is None else windows_of(batch.privileged, horizon),
            )
            dreamt, surprise = self._dream(filtered, windows_of(filtered.belief, horizon), state)
            losses["dreamt_dynamics"] = config.dynamics * mean_of(surprise, valid[:, 1:])
            losses |= {f"dreamt_{name}": error for name, error in self._errors(dreamt, window, 1).items()}
        if config.carry_state:
            known = windows_of(filtered.belief[..., : self.size.deter], horizon) if dreamt is None else dreamt
            off = self.body.errors(state, action[:, :-1], known[:, :-1, : self.size.deter])
            losses["body"] = mean_of(off, valid[:, 1:])
        if self.slots is not None and filtered.sightings is not None:
            if batch.privileged is None:
                raise UsageError("slots need the simulator's privileged state, and these episodes have none.")
            errors = self.slots.losses(filtered.sightings, batch.obs.state, batch.privileged, batch.valid, horizon)
            losses |= {name: config.privileged * error for name, error in errors.items()}
        return losses | self._frame_errors(batch, filtered.belief, dreamt), filtered

    def _divergences(self, filtered: Filtered, valid: Bool[Tensor, "b t"]) -> dict[str, Tensor]:
        """KL balance (DreamerV3, eq. 5). Before the first row of a window nothing is known, so it does not count."""
        config, mask = self.config, valid[:, 1:]
        prior, posterior = filtered.prior[:, 1:], filtered.posterior[:, 1:]
        dynamics = divergence(posterior.detach(), prior).clamp(min=config.free_bits)
        representation = divergence(posterior, prior.detach()).clamp(min=config.free_bits)
        return {
            "dynamics": config.dynamics * mean_of(dynamics, mask),
            "representation": config.representation * mean_of(representation, mask),
        }

    def _errors(self, belief: Float[Tensor, "b t d"], window: Trajectory, first: int) -> dict[str, Tensor]:
        """What is wrong with beliefs about a window: with outcomes from row 1 on, with the rest from row `first` on."""
        # Cut once and cast once, for each cut and each cast of so wide a tensor costs a pass there and one back.
        seen = self.features(belief)[:, first:]
        seen = seen.to(precision(seen))
        arrived, valid = window.valid[:, 1:], window.valid[:, first:]
        happened = torch.stack([window.terminated, window.success], -1)[:, :-1].float()
        ended = functional.binary_cross_entropy_with_logits(
            self.ending_head(seen)[:, 1 - first :].float(), happened, reduction="none"
        )
        reward = self.two_hot.loss(self.reward_head(seen)[:, 1 - first :], window.reward[:, :-1])
        errors = {"reward": mean_of(reward, arrived), "ended": mean_of(ended.sum(-1), arrived)}
        if not self.config.carry_state:
            # Who sees images only may be asked about the state, but does not learn from it.
            known = seen.detach() if self.config.sees == "images" else seen
            off = self.state_head(known).float() - symlog(self.body.scale(window.obs.state[:, first:]))
            errors["state"] = mean_of(0.5 * off.square().sum(-1), valid)
        if window.privileged is not None and self.world_head is not None:
            weight = self.config.privileged
            error = self.world_head.loss(seen if weight else seen.detach(), window.privileged[:, first:])
            errors["privileged"] = (weight or 1.0) * mean_of(error, valid)
        return errors

    def _dream(
        self, filtered: Filtered, beliefs: Float[Tensor, "n k d"], state: Float[Tensor, "n k s"]
    ) -> tuple[Float[Tensor, "n k d"], Float[Tensor, "n h"]]:
        """Beliefs imagined from the first of each window on, and how far their latents are from those seen.

        They learn from how the robot really moved; its own errors would teach them that contact is luck.
        """
        horizon = self.config.overshooting
        pushed, posterior = windows_of(filtered.pushed, horizon), windows_of(filtered.posterior.detach(), horizon)
        deter, stoch, _, slots = beliefs[:, 0].split(self.parts, -1)
        noise = self.noise(len(deter) * horizon).unflatten(0, (horizon, len(deter)))
        deters, stochs = [deter], [stoch]
        priors: list[Tensor] = []
        for i in range(horizon):
            deter = self.core.advance(deter, stoch, pushed[:, i + 1])
            prior = self.core.prior(deter)
            stoch = sample(prior, noise[i])
            deters.append(deter)
            stochs.append(stoch)
            priors.append(prior)
        surprise = divergence(posterior[:, 1:], torch.stack(priors, 1)).clamp(min=self.config.free_bits)
        dreamt = [torch.stack(deters, 1), torch.stack(stochs, 1), state[..., : self.carried]]
        if self.slots is not None:
            with torch.no_grad():
                dreamt.append(self.slots.dream(slots, state))
        return torch.cat(dreamt, -1), surprise

    def _frame_errors(
        self, batch: Trajectory, seen: Float[Tensor, "b t d"], dreamt: Float[Tensor, "n k d"] | None
    ) -> dict[str, Tensor]:
        """The decoder's loss, per frame, on some rows and on some dreams."""
        if not self.spec.cameras:
            return {}
        n, rows = batch.valid.shape
        index = torch.arange(n * rows, device=batch.valid.device).unflatten(0, (n, rows))
        errors = {"frames": self._frame_error(batch, seen.flatten(0, 1), index.flatten())}
        if dreamt is not None:
            rows_dreamt = windows_of(index, self.config.overshooting)[:, 1:].flatten()
            errors["dreamt_frames"] = self._frame_error(batch, dreamt[:, 1:].flatten(0, 1), rows_dreamt)
        return errors

    def _frame_error(
        self, batch: Trajectory, belief: Float[Tensor, "n d"], row: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """The decoder's loss on some of the beliefs, each about a row of the flat batch."""
        some = some_of(batch.valid.flatten()[row], self.config.frames)
        if len(some) == 0:
            return belief.new_zeros(())
        images = {name: image.flatten(0, 1)[row[some]] for name, image in batch.obs.images.items()}
        pixels = sum(3 * h * w for h, w in self.spec.cameras.values()) / len(self.spec.cameras)
        error = self.decoder.loss(self.features(belief[some]), images, self.config.foreground_weight)
        return self.config.image_weight * pixels * error


def _spec_of(config: RSSMConfig, spec: Spec) -> Spec:
    """What the model sees and imagines: its cameras, and of the simulator's state what is of the world."""
    cameras = () if config.sees == "state" else config.cameras
    for camera in cameras or ():
        if camera not in spec.cameras:
            raise unknown("camera", camera, spec.cameras)
    kept = {name: size for name, size in spec.cameras.items() if cameras is None or name in cameras}
    return replace(spec, cameras=kept, privileged=Layout.of(spec.privileged).names)

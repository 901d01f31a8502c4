"""What the simulated cell types and regions are like, from the literature.

The table was fixed before anything was trained on it. Means follow the papers below where they give one.
Spreads are wide, so that no single statistic identifies a type and rates of different types overlap.

Rates
    Log-normal within a type, two decades wide (Buzsaki & Mizuseki 2014, Nat Rev Neurosci 15:264): a
    standard deviation of 0.6 to 1.0 natural-log units. Principal cells of CA1 fire about 1 Hz and its
    interneurons 5 to 15 Hz (Mizuseki & Buzsaki 2013, Cell Rep 4:1010). Awake V1: regular-spiking 2 to 4 Hz,
    PV 6 to 10 Hz, SST and VIP in between (Niell & Stryker 2008, J Neurosci 28:7520; Yu et al. 2019, Neuron
    104:412). Thalamic relay about 7 Hz (Siegle et al. 2021, Nature 592:86).
Spike timing
    Refractory periods of 1 to 3 ms, shorter in fast-spiking cells. Irregular trains, gamma order near 1
    (Softky & Koch 1993, J Neurosci 13:334). CA1 pyramidal cells fire complex-spike bursts of 3 to 8 ms
    intervals (Ranck 1973, Exp Neurol 41:461; Harris et al. 2001, Neuron 32:141), relay cells low-threshold
    bursts of 2 to 4 ms intervals after 100 ms of silence, more so in drowsiness (Reinagel et al. 1999, J
    Neurophysiol 81:2558; Swadlow & Gusev 2001, Nat Neurosci 4:402).
Intrinsic timescale
    Tens of ms in thalamus, longer in cortex, longest in hippocampus and association areas (Murray et al.
    2014, Nat Neurosci 17:1661; Siegle et al. 2021).
Coupling to the local population
    Broad within a type, from soloists to choristers (Okun et al. 2015, Nature 521:511). PV cells follow the
    population closely and 2 to 4 ms late (Hofer et al. 2011, Nat Neurosci 14:1045; Cardin 2018, Trends
    Neurosci 41:689). SST cells follow tens of ms late, by facilitating synapses (Silberberg & Markram 2007,
    Neuron 53:735). The weak coupling of VIP cells is an assumption: the papers give no figure.
Brain state
    Arousal raises VIP cells (Fu et al. 2014, Cell 156:1139; Reimer et al. 2014, Neuron 84:355). In V1 it
    lowers many SST cells (Fu et al. 2014), not all (Pakan et al. 2016, eLife 5:e14985), and leaves
    excitatory and PV cells mixed (Vinck et al. 2015, Neuron 86:740); it raises O-LM cells in CA1 (Katona et
    al. 2014, Neuron 82:872) and relay cells (Erisken et al. 2014, Curr Biol 24:2899). It weakens shared
    fluctuations everywhere (Reimer et al. 2014).
Rhythms
    CA1 theta phases, 0 at the trough: pyramidal 20 degrees, PV basket 271, O-LM 19, CCK/VIP basket 174; in
    ripples pyramidal and PV cells fire, O-LM cells pause (Klausberger et al. 2003, Nature 421:844;
    Klausberger & Somogyi 2008, Science 321:53). V1: PV cells lock to gamma, a few ms after pyramidal cells
    (Cardin et al. 2009, Nature 459:663; Perrenoud et al. 2016, PLoS Biol 14:e1002383), SST cells to 20-30
    Hz (Chen et al. 2017, Neuron 96:1403; Veit et al. 2017, Nat Neurosci 20:951). Thalamus: spindles of 11
    Hz in drowsiness (McCormick & Bal 1997, Annu Rev Neurosci 20:185). Mouse sensory thalamus has few
    interneurons outside LGd (Jager et al. 2021, eLife 10:e59272), so TH holds relay cells only and its
    units are ``excitatory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Locking:
    """How units of one type follow one rhythm.

    Attributes:
        phase_deg: Mean preferred phase.
        depth: Mean concentration: intensity is proportional to ``exp(depth * amplitude *
            cos(phase - preferred))``.
    """

    phase_deg: float
    depth: float


@dataclass(frozen=True)
class CellProfile:
    """One cell type in one region: means or medians over units. Spreads not given here are in `SPREAD`.

    Attributes:
        fraction: Share of the region's units (interneurons enriched, as in tagged data sets).
        median_rate_hz, rate_sigma: Log-normal rate; sigma in natural-log units.
        isi_order: Order of the gamma renewal process in operational time, 1 = Poisson.
        refractory_ms: Absolute refractory period.
        burst_probability: Chance that an eligible spike starts a burst.
        burst_isi_ms: First interval inside a burst.
        burst_silence_ms: Silence that a burst must follow, 0 = none.
        burst_state: Log change of the burst probability per unit of arousal.
        coupling, coupling_sd: Log-intensity per unit of the region's drive.
        lag_ms: Delay behind the region's drive.
        state, state_sd: Log-intensity per unit of arousal.
        locking: Rhythm's name -> how the type follows it.
        ripple: Log-intensity at the peak of a ripple.
    """

    fraction: float
    median_rate_hz: float
    rate_sigma: float
    isi_order: float
    refractory_ms: float
    burst_probability: float
    burst_isi_ms: float
    coupling: float
    coupling_sd: float
    lag_ms: float
    state: float
    state_sd: float
    burst_silence_ms: float = 0.0
    burst_state: float = 0.0
    locking: Mapping[str, Locking] = field(default_factory=dict)
    ripple: float = 0.0


@dataclass(frozen=True)
class Rhythm:
    """An oscillation whose frequency and amplitude wander.

    Attributes:
        frequency_hz, frequency_sd_hz: Mean over animals and spread between them.
        bandwidth_hz: Standard deviation of the frequency within an animal.
        state: Log change of the amplitude per unit of arousal.
    """

    name: str
    frequency_hz: float
    frequency_sd_hz: float
    bandwidth_hz: float
    state: float


@dataclass(frozen=True)
class Region:
    """One brain region.

    Attributes:
        fraction: Share of an insertion's units.
        timescale_ms: Median time constant of a unit's private rate fluctuations.
        private_sd: Their standard deviation in log-intensity.
        drive_fast_ms, drive_slow_ms: The two time constants of the shared drive.
        drive_gain: Scale of the shared drive (population synchrony).
        rhythms: Its oscillations.
        ripple_rate_hz: Sharp-wave ripples per second in the lowest arousal.
        cells: Cell type -> profile; fractions add up to 1.
    """

    name: str
    fraction: float
    timescale_ms: float
    private_sd: float
    drive_fast_ms: float
    drive_slow_ms: float
    drive_gain: float
    rhythms: tuple[Rhythm, ...]
    ripple_rate_hz: float
    cells: Mapping[str, CellProfile]


VISP = Region(
    name="VISp",
    fraction=0.4,
    timescale_ms=70.0,
    private_sd=0.5,
    drive_fast_ms=15.0,
    drive_slow_ms=150.0,
    drive_gain=1.0,
    rhythms=(
        Rhythm("gamma", frequency_hz=55.0, frequency_sd_hz=4.0, bandwidth_hz=4.0, state=0.2),
        Rhythm("beta", frequency_hz=25.0, frequency_sd_hz=2.0, bandwidth_hz=3.0, state=0.0),
    ),
    ripple_rate_hz=0.0,
    cells={
        "excitatory": CellProfile(
            fraction=0.40,
            median_rate_hz=3.0,
            rate_sigma=1.0,
            isi_order=1.0,
            refractory_ms=2.5,
            burst_probability=0.06,
            burst_isi_ms=5.0,
            coupling=0.45,
            coupling_sd=0.30,
            lag_ms=0.0,
            state=0.05,
            state_sd=0.35,
            locking={"gamma": Locking(0.0, 0.20), "beta": Locking(0.0, 0.12)},
        ),
        "PV": CellProfile(
            fraction=0.22,
            median_rate_hz=8.0,
            rate_sigma=0.8,
            isi_order=1.2,
            refractory_ms=1.2,
            burst_probability=0.02,
            burst_isi_ms=4.0,
            coupling=0.65,
            coupling_sd=0.25,
            lag_ms=3.0,
            state=0.10,
            state_sd=0.30,
            locking={"gamma": Locking(60.0, 0.50), "beta": Locking(30.0, 0.15)},
        ),
        "SST": CellProfile(
            fraction=0.20,
            median_rate_hz=5.0,
            rate_sigma=0.85,
            isi_order=1.0,
            refractory_ms=2.0,
            burst_probability=0.06,
            burst_isi_ms=6.0,
            coupling=0.40,
            coupling_sd=0.25,
            lag_ms=20.0,
            state=-0.25,
            state_sd=0.35,
            locking={"gamma": Locking(60.0, 0.15), "beta": Locking(60.0, 0.40)},
        ),
        "VIP": CellProfile(
            fraction=0.18,
            median_rate_hz=4.5,
            rate_sigma=0.85,
            isi_order=1.0,
            refractory_ms=2.0,
            burst_probability=0.06,
            burst_isi_ms=5.0,
            coupling=0.25,
            coupling_sd=0.25,
            lag_ms=0.0,
            state=0.55,
            state_sd=0.30,
            locking={"gamma": Locking(30.0, 0.15), "beta": Locking(0.0, 0.12)},
        ),
    },
)

CA1 = Region(
    name="CA1",
    fraction=0.35,
    timescale_ms=150.0,
    private_sd=0.6,
    drive_fast_ms=15.0,
    drive_slow_ms=200.0,
    drive_gain=0.7,
    rhythms=(Rhythm("theta", frequency_hz=7.5, frequency_sd_hz=0.5, bandwidth_hz=0.7, state=0.5),),
    ripple_rate_hz=0.6,
    cells={
        "excitatory": CellProfile(
            fraction=0.40,
            median_rate_hz=1.2,
            rate_sigma=1.0,
            isi_order=1.0,
            refractory_ms=2.5,
            burst_probability=0.20,
            burst_isi_ms=5.0,
            coupling=0.45,
            coupling_sd=0.30,
            lag_ms=0.0,
            state=-0.05,
            state_sd=0.35,
            locking={"theta": Locking(20.0, 0.45)},
            ripple=1.8,
        ),
        "PV": CellProfile(
            fraction=0.22,
            median_rate_hz=10.0,
            rate_sigma=0.7,
            isi_order=1.2,
            refractory_ms=1.2,
            burst_probability=0.02,
            burst_isi_ms=4.0,
            coupling=0.60,
            coupling_sd=0.25,
            lag_ms=3.0,
            state=0.15,
            state_sd=0.30,
            locking={"theta": Locking(271.0, 0.50)},
            ripple=1.4,
        ),
        "SST": CellProfile(
            fraction=0.20,
            median_rate_hz=6.0,
            rate_sigma=0.8,
            isi_order=1.0,
            refractory_ms=2.0,
            burst_probability=0.06,
            burst_isi_ms=6.0,
            coupling=0.40,
            coupling_sd=0.25,
            lag_ms=15.0,
            state=0.30,
            state_sd=0.30,
            locking={"theta": Locking(19.0, 0.60)},
            ripple=-1.2,
        ),
        "VIP": CellProfile(
            fraction=0.18,
            median_rate_hz=5.0,
            rate_sigma=0.85,
            isi_order=1.0,
            refractory_ms=2.0,
            burst_probability=0.06,
            burst_isi_ms=5.0,
            coupling=0.25,
            coupling_sd=0.25,
            lag_ms=0.0,
            state=0.50,
            state_sd=0.30,
            locking={"theta": Locking(174.0, 0.35)},
            ripple=0.2,
        ),
    },
)

TH = Region(
    name="TH",
    fraction=0.25,
    timescale_ms=35.0,
    private_sd=0.4,
    drive_fast_ms=15.0,
    drive_slow_ms=100.0,
    drive_gain=0.8,
    rhythms=(Rhythm("spindle", frequency_hz=11.0, frequency_sd_hz=0.8, bandwidth_hz=1.0, state=-0.5),),
    ripple_rate_hz=0.0,
    cells={
        "excitatory": CellProfile(
            fraction=1.0,
            median_rate_hz=7.0,
            rate_sigma=0.8,
            isi_order=1.1,
            refractory_ms=2.0,
            burst_probability=0.15,
            burst_isi_ms=3.0,
            burst_silence_ms=100.0,
            burst_state=-0.5,
            coupling=0.40,
            coupling_sd=0.30,
            lag_ms=0.0,
            state=0.25,
            state_sd=0.35,
            locking={"spindle": Locking(0.0, 0.35)},
        ),
    },
)


@dataclass(frozen=True)
class UnitSpread:
    """How much units of one type differ: standard deviations of the natural log, unless named otherwise.

    Wide, since single units of one type and area differ more than the means of types and areas do: timescales
    (Cavanagh et al. 2016, eLife 5:e18937; Wasmuht et al. 2018, Nat Commun 9:3499), bursting from almost never
    to often (Harris et al. 2001; Mizuseki & Buzsaki 2013). The others are assumptions of the same order.
    Without a spread of timing, features of single trains named every PV unit, which real ones never do.
    """

    refractory: float = 0.35
    isi_order: float = 0.25
    burst_probability: float = 0.8
    burst_isi: float = 0.25
    timescale: float = 0.6
    lag: float = 0.3
    locking: float = 0.6
    phase_deg: float = 35.0
    ripple_linear: float = 0.4
    drift_linear: float = 0.2


SPREAD = UnitSpread()
REGIONS: Mapping[str, Region] = {region.name: region for region in (VISP, CA1, TH)}
CELL_TYPES: tuple[str, ...] = ("excitatory", "PV", "SST", "VIP")

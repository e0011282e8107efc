//! Compares the measurements with their goals.

use std::fmt::Write;
use std::time::Duration;

use super::cost::Cost;
use super::stage::{Figures, Program, Sample};

/// A goal and its measurement.
struct Goal {
    what: String,
    measured: f64,
    /// The upper bound; `None` for a measurement that is only for comparison.
    most: Option<f64>,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    TimesTheLimit,
    TimesEmpty,
    Milliseconds,
    Megabytes,
    KibibytesAHost,
    Percent,
}

/// The goals that have been measured.
#[derive(Default)]
pub struct Goals {
    goals: Vec<Goal>,
    figures: Vec<Figures>,
}

impl Goals {
    /// Judges the startup time of the real program against that of an empty one.
    pub fn start(&mut self, starts: &[[Cost; 2]]) {
        let process = |which: fn(&[Cost; 2]) -> &Cost| median(starts.iter().map(|pair| ms(which(pair).process)));
        let ratio = process(|[_, real]| real) / process(|[empty, _]| empty);
        self.judge("--version: process".to_owned(), ratio, Some(2.2), Unit::TimesEmpty);
    }

    /// Judges the runs of one fleet.
    pub fn fleet(&mut self, all: Vec<Figures>) {
        for figures in all {
            if let Some(limit) = self.of(Program::Bare, &figures).filter(|_| figures.program.is_real()) {
                let ratio = |value: fn(&Sample) -> f64| figures.median(value) / limit.median(value);
                let (span, cpu, process) = (ratio(Sample::span), ratio(Sample::cpu), ratio(Sample::process));
                self.judge_run(&figures, span, cpu, process);
                self.judge_growth(&figures);
            }
            self.figures.push(figures);
        }
    }

    fn judge_run(&mut self, figures: &Figures, span: f64, cpu: f64, process: f64) {
        let Figures { scenario, program, .. } = figures;
        let name = format!("{program}, {scenario}");
        let hosts = scenario.hosts;
        if hosts == 1 && *program == Program::Deploy {
            self.judge(format!("{name}: process"), process, scenario.goal(1.8), Unit::TimesTheLimit);
        }
        let process = [(1, 350.0), (10, 350.0), (100, 400.0), (1_000, 600.0)].into_iter().find(|(of, _)| *of == hosts);
        if let Some((_, most)) = process {
            let took = figures.median(Sample::process);
            self.judge(format!("{name}: whole process"), took, scenario.goal(most), Unit::Milliseconds);
        }
        if hosts >= 100 {
            self.judge(format!("{name}: first request to last final"), span, scenario.goal(1.5), Unit::TimesTheLimit);
        }
        if hosts >= 1_000 {
            self.judge(format!("{name}: CPU"), cpu, scenario.goal(4.0), Unit::TimesTheLimit);
        }
        let memory = [(100, 10.0), (1_000, 12.0), (10_000, 24.0)];
        if let Some((_, most)) = memory.into_iter().find(|(of, _)| *of == hosts) {
            self.judge(
                format!("{name}: peak memory"),
                figures.median(Sample::peak),
                scenario.goal(most),
                Unit::Megabytes,
            );
        }
        self.judge(
            format!("{name}: last final to exit"),
            figures.median(Sample::leave),
            scenario.goal(2.0),
            Unit::Milliseconds,
        );
        if hosts == 1_000 && *program == Program::Apply {
            let percent = 100.0 * figures.median(Sample::display) / figures.median(Sample::cpu);
            self.judge(format!("{name}: display's share of CPU"), percent, scenario.goal(5.0), Unit::Percent);
        }
    }

    /// Judges the cost of each further host, with connections of the same kind.
    fn judge_growth(&mut self, large: &Figures) {
        let (hosts, is_real) = (large.scenario.hosts, large.scenario.is_real());
        let same = |figures: &&Figures| figures.scenario.is_real() == is_real && figures.scenario.hosts == 1_000;
        let of = |program: Program| self.figures.iter().filter(same).find(|figures| figures.program == program);
        let limit = self.of(Program::Bare, large);
        let (Some(small), Some(small_limit), Some(limit), 10_000) =
            (of(large.program), of(Program::Bare), limit, hosts)
        else {
            return;
        };
        let growth =
            |value: fn(&Sample) -> f64, large: &Figures, small: &Figures| large.median(value) - small.median(value);
        let slope = growth(Sample::span, large, small) / growth(Sample::span, limit, small_limit);
        let memory = growth(Sample::peak, large, small) * 1024.0 / 9_000.0;
        let Figures { scenario, program, .. } = large;
        let name = format!("{program}, to {scenario}");
        self.judge(format!("{name}: slope from 1,000"), slope, scenario.goal(1.25), Unit::TimesTheLimit);
        self.judge(format!("{name}: memory"), memory, scenario.goal(1.2), Unit::KibibytesAHost);
    }

    /// Returns the figures of a program with the same fleet.
    fn of(&self, program: Program, like: &Figures) -> Option<&Figures> {
        self.figures.iter().find(|figures| figures.program == program && figures.scenario == like.scenario)
    }

    fn judge(&mut self, what: String, measured: f64, most: Option<f64>, unit: Unit) {
        self.goals.push(Goal { what, measured, most, unit });
    }

    /// Formats the medians of all measurements.
    pub fn figures(&self) -> String {
        let mut text = String::from(
            "                                                  span ms  process ms  CPU us/host   peak MB  exit ms  span min..max\n",
        );
        for figures in &self.figures {
            let Figures { scenario, program, .. } = figures;
            let spans = || figures.samples.iter().map(Sample::span);
            let (least, most) = (spans().fold(f64::MAX, f64::min), spans().fold(0.0, f64::max));
            let cpu = figures.median(Sample::cpu) / f64::from(scenario.hosts);
            let leave = figures.median(Sample::leave);
            let (span, process) = (figures.median(Sample::span), figures.median(Sample::process));
            let peak = figures.median(Sample::peak);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<30} {program:<18} {span:>8.2} {process:>11.2} {cpu:>12.1} {peak:>9.1} {leave:>8.2}  {least:.1}..{most:.1}",
                scenario.to_string(),
            );
        }
        text
    }

    /// Formats all goals, one a line.
    pub fn table(&self) -> String {
        let lines = self.goals.iter().map(|goal| {
            let Goal { what, measured, most, unit } = goal;
            let unit = unit.as_str();
            match most {
                Some(most) if measured <= most => format!("{what:<66} {measured:>8.2} of {most:>5} {unit:<12} ok"),
                Some(most) => format!("{what:<66} {measured:>8.2} of {most:>5} {unit:<12} MISSED"),
                None => format!("{what:<66} {measured:>8.2}          {unit}"),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Unit {
    fn as_str(self) -> &'static str {
        match self {
            Self::TimesTheLimit => "x the limit",
            Self::TimesEmpty => "x empty",
            Self::Milliseconds => "ms",
            Self::Megabytes => "MB",
            Self::KibibytesAHost => "KiB a host",
            Self::Percent => "%",
        }
    }
}

impl Sample {
    /// In milliseconds.
    fn span(&self) -> f64 {
        ms(self.span)
    }

    /// In milliseconds.
    fn process(&self) -> f64 {
        ms(self.cost.process)
    }

    /// In microseconds.
    fn cpu(&self) -> f64 {
        ms(self.cost.cpu) * 1e3
    }

    /// In microseconds; NaN if unknown.
    fn display(&self) -> f64 {
        self.display.map_or(f64::NAN, |display| ms(display) * 1e3)
    }

    /// In MB.
    fn peak(&self) -> f64 {
        f64::from(self.cost.peak_kib) / 1024.0
    }

    /// In milliseconds; NaN if unknown.
    fn leave(&self) -> f64 {
        self.leave.map_or(f64::NAN, ms)
    }
}

impl Figures {
    fn median(&self, value: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(value))
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

use super::*;

fn plot(points: Vec<(f64, Option<f64>)>, scale: Scale) -> Plot {
    Plot {
        id: "test",
        title: "<t>".into(),
        description: "a & b".into(),
        x: Axis { label: "time", unit: Unit::Time, scale: Scale::Linear },
        y: Axis { label: "latency", unit: Unit::Micros, scale },
        series: vec![Series::line("one", 0, points.clone()), Series::line("<two>", 1, points)],
        marks: Vec::new(),
    }
}

fn coordinates_are_finite(svg: &str) {
    for bad in ["NaN", "inf", "nan"] {
        assert!(!svg.contains(bad), "{bad} in {}", format::truncate(svg, 600));
    }
    assert!(svg.contains("&lt;t&gt;") && svg.contains("a &amp; b") && !svg.contains("<two>"));
}

#[test]
fn odd_points_make_a_valid_plot() {
    for scale in [Scale::Linear, Scale::Log] {
        for points in [
            vec![],
            vec![(0.0, None)],
            vec![(0.0, Some(0.0))],
            vec![(5.0, Some(7.0))],
            vec![(0.0, Some(7.0)), (1.0, Some(7.0))],
            vec![(0.0, Some(f64::NAN)), (f64::NAN, Some(1.0)), (1.0, Some(f64::INFINITY))],
            vec![(0.0, Some(1e300)), (1.0, Some(1e-300))],
        ] {
            coordinates_are_finite(&plot(points, scale).svg());
        }
    }
}

#[test]
fn line_breaks_where_a_value_is_missing() {
    let svg = plot(vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1.0)), (3.0, Some(2.0))], Scale::Log).svg();
    let path = svg.split("class=\"l s0 d0\" d=\"").last().unwrap().split('"').next().unwrap();
    assert_eq!(path.matches('M').count(), 2, "{path}");
    assert!(svg.contains("<circle"), "a single point is drawn");
}

#[test]
fn ticks_are_round() {
    let axis = |unit, scale| Axis { label: "", unit, scale };
    let of = |unit, scale, low, high| {
        ticks(&axis(unit, scale), low, high).into_iter().map(|t| unit.tick(t)).collect::<Vec<_>>()
    };
    assert_eq!(of(Unit::Time, Scale::Linear, 0.0, 90.0)[..4], ["0", "10 s", "20 s", "30 s"]);
    assert_eq!(of(Unit::Time, Scale::Linear, 0.0, 86_399.0)[..2], ["0", "3:00:00"]);
    assert_eq!(of(Unit::Rate, Scale::Linear, 0.0, 60_000.0), ["0", "20k", "40k", "60k"]);
    assert_eq!(of(Unit::Micros, Scale::Log, 200.0, 5_000.0), ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
    assert_eq!(
        of(Unit::Nines, Scale::Linear, 0.0, 5.2),
        ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
    );
}

#[test]
fn close_marks_are_numbered_and_stay_inside() {
    let mut plot = plot((0..100).map(|i| (f64::from(i), Some(1.0))).collect(), Scale::Log);
    plot.marks = (0..80)
        .map(|i| Mark { x: f64::from(i) * 1.3, label: format!("kill <n{i}>"), failed: i % 7 == 0 })
        .collect();
    let svg = plot.svg();
    coordinates_are_finite(&svg);
    assert_eq!(svg.matches("<g class=\"f").count(), marks::MARKS_MAX);
    assert!(svg.contains("kill &lt;n0&gt;") && !svg.contains("<n0>"));
}

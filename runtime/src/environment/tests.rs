use super::*;

fn map(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn owned(list: &[(&str, Option<&str>)]) -> Vec<Edit> {
    list.iter()
        .map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned)))
        .collect()
}

type Pairs<'a> = &'a [(&'a str, &'a str)];
type Edits<'a> = &'a [(&'a str, Option<&'a str>)];

/// One line of the table; what a line does not name is empty.
#[derive(Default)]
struct Row<'a> {
    job: Pairs<'a>,
    image: &'a [&'a str],
    keep: &'a [&'a str],
    remap_root: bool,
    files: Edits<'a>,
    plan: Edits<'a>,
    entrypoint: Edits<'a>,
    /// The edits, without PATH where the row does not speak of it.
    wanted: Edits<'a>,
}

fn check(row: &Row<'_>, function: impl Fn(&Layers<'_>)) {
    let (job, image, keep) = (map(row.job), words(row.image), words(row.keep));
    let (files, plan, entrypoint) = (owned(row.files), owned(row.plan), owned(row.entrypoint));
    function(&Layers {
        job: Some(&job),
        image: &image,
        keep: &keep,
        remap_root: row.remap_root,
        files: &files,
        plan: &plan,
        entrypoint: &entrypoint,
    });
}

fn check_edits(rows: &[Row<'_>]) {
    for (number, row) in rows.iter().enumerate() {
        check(row, |layers| {
            let mut got = edits(layers);
            if !row.wanted.iter().any(|(name, _)| *name == "PATH") {
                got.retain(|(name, _)| name != "PATH");
            }
            assert_eq!(got, owned(row.wanted), "row {number}: {layers:?}");
        });
    }
}

#[test]
fn job_and_image() {
    let one = |job, image, keep, wanted| Row {
        job,
        image,
        keep,
        wanted,
        ..Row::default()
    };
    check_edits(&[
        one(&[], &[], &[], &[]),
        one(&[("A", "job")], &[], &[], &[]),
        one(&[("A", "job")], &["A=image"], &[], &[("A", Some("image"))]),
        one(&[("A", "job")], &["A=image"], &["A"], &[]),
        one(&[], &["A=image"], &["A"], &[("A", Some("image"))]),
        one(&[("A", "")], &["A=image"], &["A"], &[]),
        one(&[("A", "job")], &["A="], &[], &[("A", Some(""))]),
        one(&[], &["OPTS=a=b"], &[], &[("OPTS", Some("a=b"))]),
        one(&[], &["novalue", "=x", "A=1", "A=2"], &[], &[("A", Some("2"))]),
        // What stays the job's whatever the image says.
        one(&[("TERM", "xterm")], &["TERM=dumb"], &[], &[]),
        one(&[], &["TERM=dumb"], &[], &[("TERM", Some("dumb"))]),
        one(
            &[("SLURM_PROCID", "1")],
            &["SLURM_PROCID=7", "PMI_RANK=7", "PMI2_X=7", "PMIX_RANK=7"],
            &[],
            &[],
        ),
        // Temporary directories, host names and the rest pass as they are.
        one(
            &[("TMPDIR", "/scratch/7"), ("HOSTNAME", "login"), ("HOME", "/home/a")],
            &[],
            &[],
            &[],
        ),
    ]);
}

#[test]
fn the_locale() {
    let both: Pairs<'_> = &[("LANG", "de_DE"), ("LC_ALL", "C")];
    let one = |job, image, keep, wanted| Row {
        job,
        image,
        keep,
        wanted,
        ..Row::default()
    };
    check_edits(&[
        one(both, &[], &[], &[("LANG", None), ("LC_ALL", None)]),
        one(both, &[], &["LC_ALL"], &[("LANG", None)]),
        one(
            &[("LANG", "de_DE")],
            &["LANG=C.UTF-8"],
            &[],
            &[("LANG", Some("C.UTF-8"))],
        ),
        one(&[("LANG", "de_DE")], &["LANG=C.UTF-8"], &["LANG"], &[]),
        one(&[("LANGUAGE", "de"), ("LC_TIME", "de_DE")], &[], &["LANGUAGE"], &[]),
        Row {
            job: both,
            entrypoint: &[("LANG", Some("from the entrypoint"))],
            wanted: &[("LANG", Some("from the entrypoint")), ("LC_ALL", None)],
            ..Row::default()
        },
    ]);
}

#[test]
fn the_path() {
    check_edits(&[
        Row {
            job: &[("PATH", "/host/bin")],
            wanted: &[("PATH", Some(DEFAULT_PATH))],
            ..Row::default()
        },
        Row {
            job: &[("PATH", "/host/bin")],
            image: &["PATH=/opt/bin:/bin"],
            wanted: &[("PATH", Some("/opt/bin:/bin"))],
            ..Row::default()
        },
        Row {
            job: &[("PATH", "/job/bin")],
            image: &["PATH=/opt/bin:/bin", "B=1"],
            keep: &["PATH"],
            wanted: &[("B", Some("1"))],
            ..Row::default()
        },
        Row {
            files: &[("PATH", Some("/site/bin"))],
            wanted: &[("PATH", Some("/site/bin"))],
            ..Row::default()
        },
    ]);
}

#[test]
fn root_inside() {
    let job: Pairs<'_> = &[("HOME", "/home/a"), ("USER", "a"), ("LOGNAME", "a")];
    check_edits(&[
        Row {
            job,
            remap_root: true,
            wanted: &[("HOME", Some("/root")), ("USER", Some("root"))],
            ..Row::default()
        },
        Row {
            job,
            image: &["HOME=/app"],
            keep: &["USER"],
            remap_root: true,
            wanted: &[("HOME", Some("/app"))],
            ..Row::default()
        },
        Row {
            job,
            image: &["HOME=/app"],
            plan: &[("HOME", Some("/home/a"))],
            wanted: &[("HOME", Some("/home/a"))],
            ..Row::default()
        },
    ]);
}

#[test]
fn each_layer_wins_over_those_before() {
    check_edits(&[
        Row {
            job: &[("A", "job")],
            image: &["A=image"],
            keep: &["A"],
            files: &[("A", Some("files"))],
            wanted: &[("A", Some("files"))],
            ..Row::default()
        },
        Row {
            files: &[("A", Some("files")), ("B", Some("files"))],
            plan: &[("A", Some("plan"))],
            wanted: &[("A", Some("plan")), ("B", Some("files"))],
            ..Row::default()
        },
        Row {
            image: &["A=image", "B=image", "C=image"],
            plan: &[("B", Some("plan"))],
            entrypoint: &[("A", Some("entry")), ("B", Some("entry")), ("C", None), ("D", Some(""))],
            wanted: &[("A", Some("entry")), ("B", Some("entry")), ("D", Some(""))],
            ..Row::default()
        },
    ]);
}

#[test]
fn what_an_entrypoint_is_given() {
    let row = Row {
        job: &[
            ("HOME", "/home/a"),
            ("TERM", "vt100"),
            ("KEPT", "job"),
            ("BOTH", "job"),
            ("OTHER", "job"),
            ("LANG", "de_DE"),
            ("SLURM_JOB_ID", "7"),
            ("SLURM_PROCID", "3"),
            ("SLURM_RLIMIT_NOFILE", "1024"),
            ("PMI_FD", "9"),
            ("PATH", "/host"),
        ],
        image: &["BOTH=image", "OURS=image", "PATH=/bin", "TERM=dumb"],
        keep: &["KEPT", "BOTH", "UNSET"],
        files: &[("FILE", Some("site"))],
        plan: &[("HOME", Some("/root"))],
        ..Row::default()
    };
    check(&row, |layers| {
        let wanted = map(&[
            ("HOME", "/root"),
            ("TERM", "vt100"),
            ("KEPT", "job"),
            ("BOTH", "job"),
            ("OURS", "image"),
            ("FILE", "site"),
            ("SLURM_JOB_ID", "7"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(for_entrypoint(layers), wanted);
        let limits = soft_limits(layers.job.unwrap());
        assert_eq!(limits, [("NOFILE".to_owned(), 1024)]);
    });
}

#[test]
fn what_an_entrypoint_changed() {
    let given = map(&[("A", "1"), ("B", "1"), ("C", "1"), ("SLURM_JOB_ID", "7"), ("PWD", "/")]);
    let left = map(&[
        ("A", "1"),
        ("B", "2"),
        ("NEW", ""),
        ("SLURM_JOB_ID", "8"),
        ("PMIX_RANK", "8"),
        ("PWD", "/x"),
        ("OLDPWD", "/"),
        ("SHLVL", "1"),
        ("_", "/bin/sh"),
    ]);
    let wanted = owned(&[("B", Some("2")), ("NEW", Some("")), ("C", None)]);
    assert_eq!(changes(&given, &left), wanted);
    assert_eq!(changes(&left, &left), []);
}

//! A short form of the founding story, and of two of its sisters: PostgreSQL as a Swarm service survives the loss of its node.

use bulkhead_lab::story::sisters::Table;
use bulkhead_lab::story::{Fall, Scene, Setting, Stage};
use bulkhead_lab::{StoreKind, node};

#[test]
fn postgres_survives_the_loss_of_its_node() {
    let _alone = node::alone().unwrap();
    let mut stage = Stage::set(Setting {
        aloud: true,
        ..Setting::new(StoreKind::Etcd)
    })
    .unwrap();
    let mut table = Table::default();
    let scenes = [
        ("the story", Fall::Cut, false),
        ("cut off both ways, under load", Fall::CutBoth, true),
        ("power off under load", Fall::PowerOff, true),
    ];
    for (name, fall, load) in scenes {
        if !table.play(name, &mut stage, Scene { fall, load }) {
            break;
        }
    }
    drop(stage);
    table.finish().unwrap();
}

//! Columns that name a pair or give its label away: never features, whoever asks for them.

/// Pieces of genome that coordinates and names belong to.
const PLACES: [&str; 8] =
    ["enhancer", "promoter", "window", "enh", "prom", "extended_enhancer", "enhancer_window", "promoter_window"];
/// What a coordinate or a name is called, behind the place or alone.
const PARTS: [&str; 10] = ["chrom", "chr", "start", "end", "name", "id", "win", "strand", "gene", "center"];

/// Why a column is never a feature; `None` when it may be one.
pub fn refusal(column: &str) -> Option<&'static str> {
    let name = column.trim().to_ascii_lowercase();
    // A region behind the name makes no measurement of it.
    let name = name.split(" (").next().unwrap_or_default();
    match name {
        "label" | "y" | "target" | "class" => return Some("it is the label"),
        "bin" => return Some("it is the stratum of distance that negatives were drawn from, label by label"),
        "interactions_in_window" | "active_promoters_in_window" => {
            return Some(
                "it counts the labels: this column and its sister alone give an AUPR of 0.83 even on held-out \
                 chromosomes",
            );
        }
        "enhancer_distance_to_promoter" | "distance" => {
            return Some(
                "it names the pair: a distance to the base is nearly unique, and distance is a baseline \
                 beside every model",
            );
        }
        "fold" | "split" | "part" | "row" | "cell_line" | "dataset" | "cell" => {
            return Some("it says where the pair comes from, not what was measured");
        }
        _ => {}
    }
    let part = PLACES.iter().find_map(|place| name.strip_prefix(place)?.strip_prefix('_')).unwrap_or(name);
    let part = part.trim_end_matches(|c: char| c.is_ascii_digit());
    PARTS.contains(&part).then_some("it names a locus: trees would remember which loci interact")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_the_published_tables_that_is_no_measurement_is_refused() {
        let header = "bin,enhancer_chrom,enhancer_distance_to_promoter,enhancer_end,enhancer_name,enhancer_start,label,\
             promoter_chrom,promoter_end,promoter_name,promoter_start,window_end,window_start,window_chrom,window_name,\
             interactions_in_window,active_promoters_in_window";
        assert!(header.split(',').all(|column| refusal(column).is_some()));
        assert!(refusal("interactions_in_window").unwrap().contains("0.83"));
        assert!(refusal("interactions_in_window (window)").is_some() && refusal("chrom1").is_some());
        for feature in ["CTCF (enhancer)", "POLR2A (promoter)", "CAGE (window)", "H3K27ac", "Methylation (promoter)"] {
            assert_eq!(refusal(feature), None, "{feature}");
        }
    }
}

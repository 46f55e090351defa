//! The films, built in: this service shows how to ask, not how to store.

use serde::{Serialize, Serializer};

/// The highest rating that all callers see, in tenths.
const OPEN_RATING_MAX: u8 = 70;

/// A film.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Film {
    /// What tells it from others.
    pub id: &'static str,
    /// Its English title.
    pub title: &'static str,
    /// The year of its release.
    pub year: u16,
    /// From 0 to 100, in tenths; 7.4 in JSON.
    #[serde(serialize_with = "rating")]
    pub rating: u8,
}

fn rating<S: Serializer>(tenths: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(f64::from(*tenths) / 10.0)
}

const fn film(id: &'static str, title: &'static str, year: u16, rating: u8) -> Film {
    Film { id, title, year, rating }
}

/// By rating, the best first.
const FILMS: [Film; 20] = [
    film("seven-samurai", "Seven Samurai", 1954, 86),
    film("city-lights", "City Lights", 1931, 85),
    film("metropolis", "Metropolis", 1927, 83),
    film("m", "M", 1931, 83),
    film("the-general", "The General", 1926, 81),
    film("stalker", "Stalker", 1979, 80),
    film("the-gold-rush", "The Gold Rush", 1925, 80),
    film("nosferatu", "Nosferatu", 1922, 78),
    film("the-lady-vanishes", "The Lady Vanishes", 1938, 77),
    film("the-lost-world", "The Lost World", 1925, 71),
    film("the-bat", "The Bat", 1926, 70),
    film("charade", "Charade", 1963, 70),
    film("the-mark-of-zorro", "The Mark of Zorro", 1920, 69),
    film("white-zombie", "White Zombie", 1932, 62),
    film("aelita", "Aelita", 1924, 64),
    film("the-last-man-on-earth", "The Last Man on Earth", 1964, 67),
    film("the-ape", "The Ape", 1940, 46),
    film("reefer-madness", "Reefer Madness", 1936, 38),
    film("plan-9-from-outer-space", "Plan 9 from Outer Space", 1957, 39),
    film("robot-monster", "Robot Monster", 1953, 29),
];

/// The films that a caller sees, at most `limit`, the best first.
pub fn films(sees_all: bool, limit: usize) -> Vec<&'static Film> {
    let mut films: Vec<_> = FILMS.iter().filter(|film| sees_all || film.rating <= OPEN_RATING_MAX).collect();
    films.sort_by_key(|film| std::cmp::Reverse(film.rating));
    films.truncate(limit);
    films
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sees_films_up_to_seven() {
        let open = films(false, 200);
        assert!(open.iter().all(|film| film.rating <= 70));
        assert_eq!(open.len(), 10);
        assert!(open.iter().any(|film| film.rating == 70), "7.0 itself is open");
        assert_eq!(films(true, 200).len(), FILMS.len());
    }

    #[test]
    fn limit_keeps_the_best() {
        assert_eq!(films(true, 1)[0].title, "Seven Samurai");
        assert_eq!(films(false, 1)[0].rating, 70);
    }

    #[test]
    fn rating_is_a_decimal_in_json() {
        let json = serde_json::to_string(&FILMS[0]).expect("it is JSON");
        assert!(json.ends_with(r#""rating":8.6}"#), "{json}");
    }
}

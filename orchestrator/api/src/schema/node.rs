//! A place in the table, walked side by side with a value: what may stand here, and how changes to it are merged.
use super::{Body, Definition, DefinitionId, Field, ListType, Scalar, Schema, Type};
use crate::kind::Text;

/// What a value may be, with references resolved.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'s> {
    /// An object with known fields.
    Struct(&'s Definition),
    /// An object with any keys and values of one type.
    Map(&'s Type),
    /// A list.
    List(&'s Type),
    /// A single value.
    Scalar(Scalar),
    /// Not looked into.
    Any,
}

/// A place in the table.
#[derive(Clone, Copy, Debug)]
pub struct Node<'s> {
    schema: &'s Schema,
    shape: Shape<'s>,
    /// The field that holds the value; elements and map values have none.
    field: Option<&'s Field>,
}

impl<'s> Node<'s> {
    /// An object of a definition.
    pub fn root(schema: &'s Schema, id: DefinitionId) -> Self {
        Self { schema, shape: resolve_id(schema, id), field: None }
    }

    fn of(schema: &'s Schema, ty: &'s Type, field: Option<&'s Field>) -> Self {
        Self { schema, shape: resolve(schema, ty), field }
    }

    /// What may stand here.
    pub fn shape(&self) -> Shape<'s> {
        self.shape
    }

    /// The table.
    pub fn schema(&self) -> &'s Schema {
        self.schema
    }

    /// The field that holds the value; `None` for elements, map values and the root.
    pub fn field_facts(&self) -> Option<&'s Field> {
        self.field
    }

    /// Below: the field or map entry `name`. `None` if there is no such field, or if this is no object.
    pub fn child(&self, name: &str) -> Option<Node<'s>> {
        match self.shape {
            Shape::Struct(definition) => definition.field(name).map(|field| self.below(field)),
            Shape::Map(value) => Some(Self::of(self.schema, value, None)),
            _ => None,
        }
    }

    /// Below: a field of this definition.
    pub fn below(&self, field: &'s Field) -> Node<'s> {
        Self::of(self.schema, &field.ty, Some(field))
    }

    /// Below: the element of a list.
    pub fn element(&self) -> Option<Node<'s>> {
        match self.shape {
            Shape::List(element) => Some(Self::of(self.schema, element, None)),
            _ => None,
        }
    }

    /// How a list's elements are told apart.
    pub fn list_type(&self) -> &'s ListType {
        static ATOMIC: ListType = ListType::Atomic;
        self.field.map_or(&ATOMIC, |field| &field.list)
    }

    /// The keys by which a list's elements are told apart, none if they are not or by value.
    pub fn keys(&self) -> &'s [Text] {
        match self.list_type() {
            ListType::Map(keys) => keys,
            _ => &[],
        }
    }

    /// Whether the value is one whole when changes are merged.
    pub fn is_atomic(&self) -> bool {
        let field = self.field.is_some_and(|field| field.atomic);
        match self.shape {
            Shape::Struct(definition) => definition.atomic || field,
            Shape::Map(_) => field,
            Shape::List(_) => *self.list_type() == ListType::Atomic,
            Shape::Scalar(_) | Shape::Any => true,
        }
    }
}

fn resolve_id(schema: &Schema, id: DefinitionId) -> Shape<'_> {
    let definition = schema.get(id);
    match &definition.body {
        Body::Fields(_) => Shape::Struct(definition),
        Body::Whole(whole) => resolve(schema, whole),
    }
}

fn resolve<'s>(schema: &'s Schema, ty: &'s Type) -> Shape<'s> {
    match ty {
        Type::Ref(id) => resolve_id(schema, *id),
        Type::List(element) => Shape::List(element),
        Type::Map(value) => Shape::Map(value),
        Type::Scalar(scalar) => Shape::Scalar(*scalar),
        Type::Any => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_to_a_containers_port() {
        let pod = Schema::builtin().node("", "v1", "Pod").unwrap();
        let containers = pod.child("spec").unwrap().child("containers").unwrap();
        assert_eq!(containers.keys(), ["name"]);
        assert!(!containers.is_atomic());
        let container = containers.element().unwrap();
        assert!(container.child("command").unwrap().is_atomic());
        let ports = container.child("ports").unwrap();
        assert_eq!(ports.keys(), ["containerPort", "protocol"]);
        let port = ports.element().unwrap().child("containerPort").unwrap();
        assert!(matches!(port.shape(), Shape::Scalar(Scalar::Int32)));
        assert!(container.child("nonsense").is_none());
        let limits = container.child("resources").unwrap().child("limits").unwrap().child("cpu").unwrap();
        assert!(matches!(limits.shape(), Shape::Scalar(Scalar::Quantity)));
        let selector = Schema::builtin().node("apps", "v1", "Deployment").unwrap();
        assert!(selector.child("spec").unwrap().child("selector").unwrap().is_atomic());
    }
}
